# What passes the link between nodes while a request is sent: HBONE, or the request in plain text.
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
