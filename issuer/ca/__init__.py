# SPDX-License-Identifier: Apache-2.0
"""The certificate authority: profiles, signing, and the life of its authorities."""
