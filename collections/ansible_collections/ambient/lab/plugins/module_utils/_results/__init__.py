# The one form of results: what checks return, `results.json` keeps, and a report has.
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
