# SPDX-License-Identifier: Apache-2.0
"""What went wrong elsewhere in this field, and the tests that hold us against it, or why it is not ours.

Each row is an advisory, an audit's finding or a bug of SPIRE and of the libraries for SPIFFE; what follows
the findings is what reading their code suggests.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
NO_SDS = "there is no SDS API yet"
NO_DELEGATION = "there is no Delegated Identity API and no Broker API yet"
ADVISORIES = {
    "CVE-2021-27098: the ID of a request was signed instead of the entry's": """
        issuer_api/test_svid.py::nothing_of_a_request_but_its_key_enters_a_certificate
        issuer_api/test_node.py::only_the_key_of_a_request_counts
        issuer/ca/test_requests.py::only_the_key_of_a_request_enters_a_certificate
        attestor/test_issuer_client.py::a_request_says_nothing_but_the_key
    """,
    "CVE-2021-27099: a value was normalised out of its place in an ID": """
        spiffekit/test_id.py::a_bad_id_is_refused_never_repaired
        spiffekit/test_template.py::whatever_the_value_the_id_keeps_its_shape
        issuer_api/test_entry_fields.py::an_id_is_never_decoded_or_normalised
        issuer_api/test_hostile_ids.py::an_id_that_is_none_is_refused_wherever_one_may_be_named
        issuer_api/test_hostile_ids.py::an_id_that_is_none_is_not_minted
        system/test_commands.py::an_id_that_is_none_is_refused_with_the_rule
    """,
    "SPI-01-007: a join token was used raw in a path": """
        issuer_api/test_node.py::a_token_that_is_no_path_segment_is_malformed
        issuer_api/test_node_operators.py::a_token_that_could_not_be_used_is_not_made
        issuer/node/test_join_token.py::any_payload_is_refused_or_stays_one_segment
    """,
    "SPI-01-006: a descriptor stayed open when the start time could not be read": """
        attacks/test_public_socket.py::connecting_and_dying_leaves_no_descriptors
        attacks/test_peers.py::a_peer_in_a_namespace_that_we_cannot_see_is_refused_and_leaves_no_descriptor
    """,
    "SPI-01-002: keys were readable for everybody": """
        spiffekit/daemon/test_key_files.py::files_and_folders_are_ours_alone_whatever_the_umask
        issuer/keys/test_disk.py::files_are_ours_alone_whatever_the_umask
        issuer/store/test_files.py::the_files_are_ours_alone_whatever_the_umask
        attestor/keys/test_disk.py::files_are_ours_alone
    """,
    "SPI-01-008: SDS has no header against forged requests": NO_SDS,
    "SPI-01-001, SPI-01-005: hardening of the build, stale dependencies": (
        "not a matter of a test: requirements.lock pins every dependency with its hash"
    ),
    "CVE-2021-44716: headers without bound filled memory": """
        attacks/test_public_socket.py::a_flood_neither_fills_memory_nor_holds_up_others
        spiffekit/daemon/test_frames.py::fields_are_counted_and_bounded
    """,
    "CVE-2026-33186: a path without its slash passed authorisation": """
        issuer_api/test_authorization.py::a_twisted_path_reaches_no_method
        issuer_api/test_authorization.py::what_is_not_in_the_table_is_denied_to_every_kind
    """,
    "#655: the node API did not verify the client's certificate": """
        issuer_api/test_caller.py::a_bad_client_certificate_is_refused
        issuer_api/test_caller.py::a_client_certificate_of_an_unknown_root_is_refused
        spiffekit/daemon/test_tls_front.py::a_certificate_that_is_no_svid_is_refused
    """,
    "1.9.3: memory was reserved for the page size that was asked for": """
        issuer_api/test_entry_lists.py::pages_follow_each_other_to_the_end
        issuer_api/test_node_operators.py::pages_follow_each_other_to_the_end
        issuer_api/test_bundle.py::pages_leave_our_own_bundle_out
    """,
    "#5697: the OIDC provider's check of its domain could be passed by": "there is no OIDC discovery yet",
    "#5749: handles were compared on Windows": "we run on Linux only",
    "1.11.3, 1.12.3: tokens without an expiry were valid": """
        spiffekit/test_jwtsvid.py::a_bad_token_is_refused
        attestor/endpoints/test_workload_api_tokens.py::what_the_standard_forbids_is_invalid
    """,
    "#6324, #7066: patterns without anchors": """
        test_house_rules.py::patterns_are_matched_from_end_to_end
        issuer_api/test_node.py::a_token_that_is_no_path_segment_is_malformed
        issuer/node/test_http_challenge.py::a_pattern_is_for_the_whole_name
        issuer/node/test_http_challenge.py::only_a_dns_name_is_asked
    """,
    "1.13.4, 1.14.2: http_challenge followed redirects": """
        issuer/node/test_http_challenge.py::another_answer_proves_nothing
        issuer/node/test_http_challenge.py::an_address_of_our_own_is_not_asked
    """,
    "1.13.4, 1.14.2: huge keys and long chains took all processors": """
        issuer/node/test_x509pop.py::a_huge_key_is_refused_before_anything_is_verified
        issuer/node/test_x509pop.py::a_chain_has_at_most_four_intermediates
        issuer/node/test_tpm_devid.py::a_payload_that_lacks_something_or_has_too_much_is_refused
        issuer/ca/test_requests.py::a_huge_key_is_refused_before_its_signature_is_looked_at
    """,
    "#6715: a resumed TLS session skipped the checks of its certificate": """
        spiffekit/daemon/test_tls_front.py::no_session_outlives_its_connection
        spiffekit/wire/test_tls.py::nobody_is_known_by_a_resumed_session
        spiffekit/workload/test_tls.py::sessions_are_not_resumed
    """,
    "#6732: selectors, which may hold secrets, were logged": """
        spiffekit/daemon/test_logging.py::no_secret_is_ever_a_field
    """,
    "#6636: a copy of an entry made administrators of downstreams": """
        issuer/store/test_round_trips.py::one_flag_never_becomes_another
        issuer_api/test_entry.py::a_flag_grants_itself_and_no_other
    """,
    "1.14.6: a join token could be used twice at once": """
        issuer_api/test_node.py::of_a_hundred_redemptions_one_wins
        issuer/store/test_transactions.py::a_join_token_is_redeemed_once_by_a_hundred_at_the_same_time
    """,
    "1.14.6: aws_iid verified one document and used another": """
        issuer/node/test_aws_iid.py::the_document_that_was_signed_is_the_one_that_counts
        issuer/node/test_cms.py::what_was_not_signed_is_no_document
    """,
    "#6998, #6960: azure_imds anchored the wrong certificate": """
        issuer/node/test_azure_imds.py::the_certificate_that_is_judged_is_the_one_that_signed
        issuer/node/test_azure_imds.py::two_certificates_of_one_name_are_none
        issuer/node/test_cms.py::a_certificate_that_came_along_vouches_for_nothing
    """,
    "#6972, #7259: a filter of one kind of SVID was missing in another": """
        issuer_api/test_parity.py::what_is_granted_or_withheld_is_so_in_every_kind
        attestor/endpoints/test_parity.py::both_kinds_of_svid_are_for_the_same_identities
    """,
    "#7060, #7288: a container was read from mounts that its user can forge": """
        engines/test_containers.py::files_mounted_over_proc_in_a_user_namespace_are_not_read
        engines/test_containers.py::a_cgroup_of_the_same_name_earns_nothing
        attestor/workload/test_containers.py::an_imitated_cgroup_earns_nothing
    """,
    "CVE-2022-36056: a log's entry of something else vouched for a signature": """
        attestor/workload/test_image_sigstore.py::a_log_entry_of_another_signature_is_refused
        attestor/workload/test_image_sigstore.py::a_bundle_that_was_tampered_with_is_refused
    """,
    "#1403: a hash was taken of the file at a path of another mount namespace": """
        attestor/workload/test_executable.py::a_hash_is_not_that_of_the_file_which_the_path_names_for_us
        attestor/workload/test_executable.py::a_replaced_file_does_not_lend_its_name
        attestor/workload/test_executable.py::an_executable_is_described_by_path_inode_and_hash
    """,
    "#2489: administrators are known by ID and not by entry": (
        "so it is with us: an ID is one identity, whatever entry it was earned by"
    ),
    "go-spiffe#383: what was signed by a removed authority stayed trusted": """
        spiffekit/test_x509svid.py::an_authority_that_was_taken_away_vouches_no_more
        issuer_api/test_caller.py::an_open_connection_falls_with_the_authority_that_vouched_for_it
        spiffekit/workload/test_tls.py::rotation_changes_new_connections_and_drops_no_old_one
    """,
    "py-spiffe#449: a token's subject was not held against its key's trust domain": """
        spiffekit/test_jwtsvid.py::a_bad_token_is_refused
        attestor/endpoints/test_workload_api_tokens.py::a_token_is_judged_by_the_bundle_of_its_own_trust_domain_alone
    """,
    "spiffe#375, spiffe#422: roots of several trust domains in one pool": """
        spiffekit/workload/test_tls.py::an_authority_speaks_for_its_own_trust_domain_only
        issuer_api/test_caller.py::a_root_vouches_for_its_own_trust_domain_only
        spiffekit/test_bundle.py::a_bundle_answers_for_its_own_trust_domain_only
    """,
    "a certificate of a device is not held against the key that its TPM certifies": """
        issuer/node/test_tpm_devid.py::a_key_that_is_in_no_tpm_proves_nothing
        issuer/node/test_tpm_devid.py::the_key_of_another_tpm_proves_nothing
    """,
    "an attestation key that signs anything forges what a TPM says": """
        issuer/node/test_tpm_devid.py::an_attestation_key_that_signs_anything_certifies_nothing
        issuer/node/test_tpm.py::a_key_attests_only_with_every_attribute_that_binds_it
    """,
    "a request with a bad signature of its own": """
        issuer/ca/test_requests.py::a_key_that_the_caller_does_not_hold_is_refused
        issuer_api/test_node.py::a_talk_that_breaks_its_order_is_refused
    """,
    "another program is executed after connecting": """
        attacks/test_peers.py::exec_of_another_binary_after_connecting_changes_what_is_attested
        attestor/endpoints/test_caller.py::exec_of_another_program_during_a_stream_is_noticed
    """,
    "the caller dies while somebody else holds its connection": """
        attacks/test_peers.py::a_socket_inherited_by_a_child_is_still_of_the_parent
        attacks/test_peers.py::a_socket_passed_on_is_still_of_the_one_that_connected
        attestor/endpoints/test_caller.py::a_caller_that_exits_during_a_stream_ends_it_at_once
    """,
    "a PID is used again": """
        attacks/test_peers.py::a_pid_that_is_used_again_is_not_the_caller
        attacks/test_peers.py::a_pid_that_is_used_again_before_the_call_is_accepted_is_not_the_caller
    """,
    "credentials are dropped after connecting": """
        attacks/test_peers.py::credentials_are_those_at_the_time_of_connecting
        attestor/workload/test_unix.py::a_process_that_becomes_another_user_is_stated_as_that
    """,
    "an expired join token is tried": """
        issuer_api/test_node.py::an_expired_token_proves_nothing_and_is_left_to_pruning
    """,
    "what fails after a join token was used loses its node": """
        issuer_api/test_node.py::a_token_whose_node_cannot_be_admitted_is_not_used_up
        system/test_full_disk.py::a_node_without_room_for_its_identity_does_not_spend_its_token
    """,
    "a downstream server publishes another key under an ID that is taken": """
        issuer_api/test_publish.py::nobody_stands_in_for_our_key_or_keeps_it_under_another_name
        issuer_api/test_publish.py::of_two_that_publish_one_id_at_once_one_wins
        issuer_api/test_bundle.py::two_keys_cannot_have_one_id
    """,
    "a published key without an end stays for ever": """
        issuer_api/test_publish.py::what_is_no_key_to_publish_is_refused
        issuer_api/test_publish.py::what_was_published_goes_a_day_after_its_end
        issuer_api/test_publish.py::an_operator_withdraws_a_key_and_it_is_gone_everywhere
    """,
    "the bundles of a delegate never shrink": NO_DELEGATION,
    "a default name and an ID in one request of SDS": NO_SDS,
    "issuers at different revisions contradict each other": "there is one issuer to a database yet",
    "the leeway of tokens": """
        spiffekit/test_jwtsvid.py::the_leeway_is_the_callers
    """,
    "a cache of tokens that is full throws out the wrong one": """
        attestor/test_jwt.py::what_was_used_last_is_remembered
    """,
    "a DNS name that is too long for a common name": """
        issuer/ca/test_profile.py::the_first_dns_name_is_the_common_name_if_it_fits
    """,
    "groups change after the start of a process": """
        attestor/workload/test_unix.py::a_process_is_stated_by_user_and_groups
        attestor/endpoints/test_caller.py::who_is_handed_something_is_looked_at_again_first
    """,
    "an entry loses a selector while somebody subscribes": """
        attestor/endpoints/test_changed_entries.py::an_entry_comes_and_goes_with_its_selectors
        attestor/test_cache.py::matching_is_what_a_naive_model_says_whatever_has_changed
    """,
    "the clock steps by an hour": """
        issuer/ca/test_rotation.py::clock_steps_of_an_hour_do_not_stop_rotation
        attestor/test_rotation.py::a_step_of_the_clock_neither_stops_rotation_nor_makes_it_ask_without_end
        attestor/test_session_recovery.py::a_step_of_the_clock_does_not_make_a_node_ask_without_end
    """,
}
HELD = [(row, test) for row, tests in ADVISORIES.items() if "::" in tests for test in tests.split()]


@pytest.mark.parametrize("held", HELD, ids=lambda held: held[1])
def test_what_holds_us_is_there(held):
    path, _, name = held[1].partition("::")
    tree = ast.parse((TESTS / path).read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert f"test_{name}" in functions


@pytest.mark.parametrize("row", ADVISORIES)
def test_a_row_has_tests_or_a_reason(row):
    assert ADVISORIES[row].strip()
    assert len(ADVISORIES[row].split()) > 3 or "::" in ADVISORIES[row]
