# How a module of the collection reaches a cluster; the same options as module_utils/_cluster/kube.py KUBE_SPEC.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of the options that name a cluster."""

    DOCUMENTATION = r"""
options:
  kubeconfig:
    description:
      - Path of the kubeconfig. It is read as kubectl reads it, and never written.
      - Left out, E(KUBECONFIG) and then C(~/.kube/config) are read. In a pod without one its ServiceAccount is used.
    type: path
  context:
    description: Context of the kubeconfig. Left out, its current context is used.
    type: str
requirements:
  - kubernetes >= 24.2.0 (Python client)
  - urllib3 >= 2.0 (comes with it)
"""
