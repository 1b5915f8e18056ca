# Who may call whom by the objects alone: all requests that policies tell apart, what a change opens, lint, mutants.
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
