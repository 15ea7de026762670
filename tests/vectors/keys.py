# SPDX-License-Identifier: Apache-2.0
"""Keys for vectors, the same in every run. They are published here, and therefore protect nothing."""

import hashlib
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
_P = (
    "e4e12101731f9261f79338433c4763df26e63b83a9d41a350224225352b6c70c3fe4815fef15c7aa4938316071e2d13f"
    "b21fc23ac34e6585ee1b4e3cc7753bb58cf0f2a76aee08a7c1d27c808856fac3970789c1c27771e6093bf8a2bfd67245"
    "601bf0aed54208f7b213cb912ac74238a4c260c1e8c121a3ff6b18afca83610d"
)
_Q = (
    "d12592fb830db9ae1f2a32061b5d7d516687aa78e66b910b1f5e1602f38d011e2743d63e118cc52695aaf033d4631343"
    "bedfeddbf784ab290ca6f9c47c2141a831497c893390a0d6dfa566553100912f61bbeb5d3e711c22dceb5cfd8a51b38b"
    "3d84fc3831a50886faec3aa12076ca8a9a3759c6b1d5253b56d3a8c2b9667369"
)


def rsa_key():
    p, q, e = int(_P, 16), int(_Q, 16), 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    crt = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    return rsa.RSAPrivateNumbers(p, q, d, *crt, rsa.RSAPublicNumbers(e, p * q)).private_key()


def elliptic_key(curve, name):
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest()[:24]), curve)


def edwards_key(name):
    return ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
