# What every package needs: errors, signals, files, rounds, text for a terminal.
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
