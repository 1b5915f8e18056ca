# Who calls whom, and what must happen: parsed strictly.
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
