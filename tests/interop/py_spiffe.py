# SPDX-License-Identifier: Apache-2.0
"""An unmodified user of the official Python client, printing one JSON object a line."""

import json
import sys
import threading
import time

from spiffe import JwtSource, JwtSvid, WorkloadApiClient, X509Source


def say(**fields):
    print(json.dumps(fields), flush=True)


def fetch():
    with WorkloadApiClient() as client:
        context = client.fetch_x509_context()
        token = client.fetch_jwt_svid(audience={"one", "two"})
        validated = client.validate_jwt_svid(token.token, "one")
        bundles = client.fetch_jwt_bundles()
        x509_bundles = client.fetch_x509_bundles()
        say(
            ids=[str(svid.spiffe_id) for svid in context.x509_svids],
            trust_domains=sorted(str(b.trust_domain.name) for b in x509_bundles.bundles),
            jwt_subject=str(token.spiffe_id),
            jwt_audience=sorted(token.audience),
            validated=str(validated.spiffe_id),
            jwt_trust_domains=sorted(str(b.trust_domain.name) for b in bundles.bundles),
        )


def watch():
    with WorkloadApiClient() as client:
        ended = threading.Event()

        def updated(context):
            svid = context.default_svid
            say(
                update=str(svid.spiffe_id),
                serial=str(svid.leaf.serial_number),
                authorities={
                    str(bundle.trust_domain.name): len(bundle.x509_authorities)
                    for bundle in context.x509_bundle_set.bundles
                },
            )

        def failed(error):
            say(watch_error=str(error))
            ended.set()

        client.stream_x509_contexts(on_success=updated, on_error=failed)
        ended.wait()


def sources():
    with X509Source() as x509_source, JwtSource() as jwt_source:
        say(ready=str(x509_source.get_x509_context().default_svid.spiffe_id))
        serial = None
        while True:
            svid = x509_source.get_x509_context().default_svid
            if svid.leaf.serial_number != serial:
                serial = svid.leaf.serial_number
                token = jwt_source.fetch_svid(audience={"one"}).token
                bundle = jwt_source.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
                validated = JwtSvid.parse_and_validate(token, bundle, {"one"})
                say(serial=str(serial), token_for=str(validated.spiffe_id))
            time.sleep(0.02)


if __name__ == "__main__":
    try:
        {"fetch": fetch, "watch": watch, "sources": sources}[sys.argv[1]]()
    except Exception as error:
        say(error=f"{type(error).__name__}: {error}")
        sys.exit(1)
