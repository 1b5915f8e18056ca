# Which mesh a module looks at; the same options as in module_utils/_reach/states.py.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of the options that name a state of a mesh, what of it is looked at, and where that is kept."""

    # STATE_SPEC
    DOCUMENTATION = r"""
options:
  manifests:
    description:
      - Folder of YAML or JSON files to take for the cluster. Without it, the cluster of O(kubeconfig) is read.
      - A workload stands for one ready pod without an address. A Gateway is taken for programmed. Pods are in the mesh
        where their own label or their namespace's says so. Render templates (Helm, Kustomize) first.
    type: path
  revision:
    description: Revision of the git repository in which O(manifests) is, for example C(main) or C(HEAD~1).
    type: str
  over_cluster:
    description: Lay the folder over the cluster, as if it were applied there. Nothing is applied.
    type: bool
    default: false
"""

    # SCOPE_SPEC
    SCOPE = r"""
options:
  namespaces:
    description:
      - Namespaces of the destinations to look at. An empty list takes all.
      - Whoever may not list the namespaces of a cluster must name them here.
      - All that may be read is read, because policies and waypoints of other namespaces count as well.
    type: list
    elements: str
    default: []
notes:
  - Nothing is sent to any workload, and nothing is changed in a cluster, unless an option says that it is.
  - What may not be read makes the answers that rest on it V(unknown). A warning names the missing right.
"""

    # RESULTS_SPEC
    RESULTS = r"""
options:
  results_file:
    description: JSON file in which to keep what was found, for M(ambient.lab.claims_report).
    type: path
  section:
    description: Name under which it is kept. Required with O(results_file).
    type: str
"""
