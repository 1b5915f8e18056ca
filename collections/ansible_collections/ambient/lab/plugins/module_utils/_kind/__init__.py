# Kubernetes clusters of kind: in containers of Docker, Podman or nerdctl.
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
