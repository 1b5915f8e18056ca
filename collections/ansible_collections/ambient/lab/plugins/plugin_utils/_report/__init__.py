# The report of what was proven: page, JUnit XML, JSON, table.
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
