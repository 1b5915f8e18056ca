# Checks what a run of ansible-playbook was asked for.
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
