# Waiting: for objects, and for proxies that must have a policy.
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
