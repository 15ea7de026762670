# SPDX-License-Identifier: Apache-2.0
"""Alembic's migrations, shipped with the package."""
