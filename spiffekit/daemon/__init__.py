# SPDX-License-Identifier: Apache-2.0
"""How one of our processes lives: lifecycle, configuration, plug-ins, logs, health, and its sockets."""
