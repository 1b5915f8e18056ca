# Checks claims until they hold: rounds, verdicts, likely causes.
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
