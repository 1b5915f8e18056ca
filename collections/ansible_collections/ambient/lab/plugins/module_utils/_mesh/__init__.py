# The mesh as a model: objects of a cluster in, the way of a request and what each proxy decides out.
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
