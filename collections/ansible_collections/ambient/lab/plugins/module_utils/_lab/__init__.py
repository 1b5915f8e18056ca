# A lab: which provider makes its cluster, its facts, and what must be in it.
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
