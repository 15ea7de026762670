# SPDX-License-Identifier: Apache-2.0
"""What the issuer must not lose: one small store a noun, all in one transaction.

`Database` owns the single writer; a `Transaction` gives the stores. Every mutation writes its row of the
change log and its audit record in the same transaction, and nothing is answered before it is committed.
"""

from issuer.store.database import Database, Transaction

__all__ = ["Database", "Transaction"]
