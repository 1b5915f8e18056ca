# How fast a policy takes hold, and what leaks meanwhile.
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
