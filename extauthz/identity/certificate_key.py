"""Which public keys of certificates are taken: strong enough, and cheap enough to verify with, since callers choose theirs.

Asked about X.509-SVIDs and whoever stands behind them (`x509_svid`), and about the authorities of trust bundles.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

ACCEPTED_KEYS = "RSA of 2048 to 8192 bits with a usual exponent, or EC on P-256, P-384 or P-521"
MAX_RSA_EXPONENT = 2**33
"""Envoy's limit. With an exponent as long as the modulus each signature costs as much as making one."""
_CURVES = (SECP256R1, SECP384R1, SECP521R1)


def is_sound_key(key: object) -> bool:
    """Whether signatures may be verified with this public key."""
    if isinstance(key, RSAPublicKey):
        return 2048 <= key.key_size <= 8192 and key.public_numbers().e < MAX_RSA_EXPONENT
    return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)
