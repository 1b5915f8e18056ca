# Kiali's traffic graph: claims about it, and pictures of it.
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
