# Runs the module link_encryption in Ansible's own process where its host is this machine.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.ambient.lab.plugins.modules.link_encryption import WORK
from ansible_collections.ambient.lab.plugins.plugin_utils._here.action import here

ActionModule = here(WORK)
