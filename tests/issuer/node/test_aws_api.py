# SPDX-License-Identifier: Apache-2.0
"""What AWS's API says of an instance becomes selectors; without its word nobody attests or renews."""

import asyncio
import sys

import pytest

from issuer.errors import NodeRejectedError, PlatformUnavailableError
from issuer.node.aws_api import THREADS, Api, AwsApi
from issuer.node.aws_iid import Config, create, create_with
from spiffekit.daemon.config import ConfigError
from spiffekit.selector import Selector, typo
from tests.fakes.aws import ACCOUNT, INSTANCE, ROLE, Aws, error
from tests.fakes.clock import FakeClock
from tests.issuer.node import test_aws_iid as iid
from tests.issuer.node.x509pop_node import Context
from tests.issuer.strategies import a_node

REGION = "us-west-2"
PATIENT = 60  # seconds: a machine under load is no API that hangs
STATED = {
    "aws_iid:tag:Name:web-1",
    "aws_iid:tag:aws:autoscaling:groupName:web",
    "aws_iid:sg:id:sg-01234567",
    "aws_iid:sg:name:blog",
    f"aws_iid:iamrole:{ROLE}",
}
CONFIG = Api(tag_keys=("Name", "aws:autoscaling:groupName", "absent"))


@pytest.fixture
def aws(monkeypatch, tmp_path):
    with Aws() as fake:
        chain = {
            "AWS_ENDPOINT_URL": fake.url,
            "AWS_ACCESS_KEY_ID": "OWN",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for name, value in chain.items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield fake


async def ask(config=CONFIG, timeout=PATIENT):
    return {str(s) for s in await AwsApi(config, timeout).selectors(ACCOUNT, REGION, INSTANCE)}


async def test_tags_groups_and_roles_of_an_instance_are_stated(aws):
    assert await ask() == STATED
    assert not any(typo(Selector.parse(text)) for text in STATED)
    assert [action for action, _, _ in aws.requests] == ["DescribeInstances", "GetInstanceProfile"]
    assert aws.requests[0] == ("DescribeInstances", "OWN", REGION)


async def test_only_tags_that_are_named_are_stated(aws):
    assert {s for s in await ask(Api()) if ":tag:" in s} == set()


async def test_an_instance_may_have_nothing(aws):
    aws.tags, aws.groups, aws.profile, aws.state = {}, {}, None, "pending"
    assert await ask() == set()


async def test_roles_need_not_be_asked_for(aws):
    assert await ask(Api(CONFIG.tag_keys, instance_profile=False)) == STATED - {f"aws_iid:iamrole:{ROLE}"}
    assert [action for action, _, _ in aws.requests] == ["DescribeInstances"]


async def test_a_role_of_the_instances_account_is_assumed_once(aws):
    api = AwsApi(Api(CONFIG.tag_keys, assume_role="issuer/Reader"), PATIENT)
    for _ in range(2):
        assert {str(s) for s in await api.selectors(ACCOUNT, REGION, INSTANCE)} == STATED
    described = [("DescribeInstances", "ASSUMED", REGION), ("GetInstanceProfile", "ASSUMED", REGION)]
    assert [one for one in aws.requests if one[0] != "AssumeRole"] == described * 2
    assert [one[1:] for one in aws.requests if one[0] == "AssumeRole"] == [("OWN", REGION)]


@pytest.mark.parametrize(
    ("region", "ec2", "iam"),
    [
        (REGION, "https://ec2.us-west-2.amazonaws.com", "https://iam.amazonaws.com"),
        ("cn-north-1", "https://ec2.cn-north-1.amazonaws.com.cn", "https://iam.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "https://ec2.us-gov-west-1.amazonaws.com", "https://iam.us-gov.amazonaws.com"),
    ],
)
def test_each_instance_is_asked_about_in_its_region_and_partition(aws, monkeypatch, region, ec2, iam):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    api = AwsApi(Api())
    assert api._client("ec2", ACCOUNT, region).meta.endpoint_url == ec2
    assert api._client("iam", ACCOUNT, region).meta.endpoint_url == iam


async def test_an_instance_comes_and_renews_with_what_is_true_then(aws):
    verifier = create_with(Config((ACCOUNT,), api=CONFIG), iid.CERTIFICATES, FakeClock(iid.NOW))
    proof = await verifier.verify(iid.sent(), iid.unasked, Context())
    assert {str(s) for s in proof.selectors} >= STATED
    assert len(proof.selectors) == 5 + len(STATED)
    node = a_node(f"aws_iid/{ACCOUNT}/{REGION}/{INSTANCE}", selectors=proof.selectors)
    assert await verifier.refresh(node) == proof.selectors

    aws.groups, aws.tags["Name"] = {}, "web-2"
    again = await verifier.refresh(node)
    assert {str(s) for s in again ^ proof.selectors} == {
        "aws_iid:tag:Name:web-1",
        "aws_iid:tag:Name:web-2",
        "aws_iid:sg:id:sg-01234567",
        "aws_iid:sg:name:blog",
    }
    aws.state = "terminated"
    with pytest.raises(NodeRejectedError, match="does not run"):
        await verifier.refresh(node)
    with pytest.raises(NodeRejectedError, match="does not run"):
        await verifier.verify(iid.sent(), iid.unasked, Context())


async def test_what_is_not_asked_for_any_longer_is_not_true_any_longer(aws):
    verifier = create_with(Config((ACCOUNT,), api=CONFIG), iid.CERTIFICATES, FakeClock(iid.NOW))
    proof = await verifier.verify(iid.sent(), iid.unasked, Context())
    node = a_node(f"aws_iid/{ACCOUNT}/{REGION}/{INSTANCE}", selectors=proof.selectors)
    left = await create(Config((ACCOUNT,))).refresh(node)
    assert {str(s) for s in proof.selectors - left} == STATED


async def test_a_document_that_is_refused_asks_nothing(aws):
    verifier = create_with(Config(("999999999999",), api=CONFIG), iid.CERTIFICATES, FakeClock(iid.NOW))
    with pytest.raises(NodeRejectedError, match="not allowed"):
        await verifier.verify(iid.sent(), iid.unasked, Context())
    assert aws.requests == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"state": "shutting-down"}, "does not run"),
        ({"state": "stopped"}, "does not run"),
        ({"state": "RUNNING"}, "does not run"),
        ({"owner": "999999999999"}, "not one that its account has"),
        ({"instance_id": "i-00000000000000000"}, "not one that its account has"),
        ({"instances": 0}, "not one that its account has"),
        ({"instances": 2}, "not one that its account has"),
        ({"instead": {"DescribeInstances": (400, error("InvalidInstanceID.NotFound"))}}, "does not exist"),
        ({"profile": "arn:aws:iam::999999999999:instance-profile/Blogs"}, "not of its account"),
        ({"profile": "Blogs"}, "not of its account"),
        ({"profile_answered": f"arn:aws:iam::{ACCOUNT}:instance-profile/Blogs"}, "not of its account"),
        ({"roles": ["arn:aws:iam::999999999999:role/Admin"]}, "not of its account"),
        ({"roles": ["Admin"]}, "not of its account"),
        ({"roles": [f"arn:aws:iam::{ACCOUNT}:user/Admin"]}, "iamrole has another form"),
        ({"groups": {"sg-x": "blog"}}, "sg:id has another form"),
        ({"groups": {"sg-01": ""}}, "sg:name has another form"),
        ({"tags": {"Name": "a\nb"}}, "control character"),
    ],
    ids=str,
)
async def test_an_instance_that_is_not_this_one_or_cannot_be_stated_is_refused(aws, changes, why):
    vars(aws).update(changes)
    with pytest.raises(NodeRejectedError, match=why):
        await ask()


@pytest.mark.parametrize(
    "changes",
    [
        {"tags": {"Name": "x" * 257}},
        {"tags": {"x" * 129: "x"}},
        {"tags": {str(n): "x" for n in range(101)}},
        {"groups": {f"sg-{n}": "x" for n in range(65)}},
        {"groups": {"sg-01": "x" * 256}},
        {"roles": [ROLE] * 9},
        {"roles": [ROLE + "x" * 1024]},
        {"instead": {"DescribeInstances": (200, b"garbage")}},
        {"instead": {"DescribeInstances": (200, b"<a><b/></a>" * 2)}},
        {"instead": {"GetInstanceProfile": (200, b"<x/>")}},
        {"instead": {"DescribeInstances": (400, error("UnauthorizedOperation"))}},
        {"instead": {"DescribeInstances": (500, b"")}},
        {"instead": {"GetInstanceProfile": (403, error("AccessDenied"))}},
    ],
    ids=lambda changes: str(changes)[:60],
)
async def test_without_an_answer_of_use_there_is_no_smaller_identity(aws, changes, caplog):
    vars(aws).update(changes)
    with pytest.raises(PlatformUnavailableError) as caught:
        await ask()
    assert str(caught.value) == "AWS's API cannot be asked, or gives no answer of use", "no more for a node"
    assert INSTANCE in caplog.text
    assert len(caplog.records[-1].getMessage()) < 400


async def test_a_throttled_question_is_asked_once_more_and_then_refused(aws):
    aws.instead = {"DescribeInstances": (503, error("RequestLimitExceeded"))}
    with pytest.raises(PlatformUnavailableError):
        await ask()
    assert len(aws.requests) == 2


async def test_a_role_that_cannot_be_assumed_is_an_api_that_cannot_be_asked(aws):
    aws.instead = {"AssumeRole": (403, error("AccessDenied"))}
    with pytest.raises(PlatformUnavailableError):
        await ask(Api(assume_role="issuer/Reader"))
    assert {action for action, _, _ in aws.requests} == {"AssumeRole"}


@pytest.mark.parametrize("role", ["", "issuer/Reader"])
async def test_without_credentials_the_api_cannot_be_asked_until_there_are_some(aws, monkeypatch, role):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    api = AwsApi(Api(CONFIG.tag_keys, assume_role=role), PATIENT)
    with pytest.raises(PlatformUnavailableError):
        await api.selectors(ACCOUNT, REGION, INSTANCE)
    assert aws.requests == []
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OWN")
    assert {str(s) for s in await api.selectors(ACCOUNT, REGION, INSTANCE)} == STATED


async def test_an_api_that_hangs_is_not_waited_for(aws):
    aws.held.clear()
    with pytest.raises(PlatformUnavailableError):
        await ask(timeout=0.3)
    aws.held.set()
    assert await ask() == STATED


async def test_no_flood_of_attestations_becomes_one_of_questions(aws):
    """A document can be sent again and again: few questions are under way, and the others wait in vain."""
    api = AwsApi(Api(instance_profile=False), PATIENT)
    aws.held.clear()
    asked = [asyncio.create_task(api.selectors(ACCOUNT, REGION, INSTANCE)) for _ in range(5 * THREADS)]
    while aws.now < THREADS:
        await asyncio.sleep(0.01)
    for one in asked[-THREADS:]:
        one.cancel()
    await asyncio.wait(asked[-THREADS:])
    aws.held.set()
    await asyncio.wait(asked)
    assert aws.most == THREADS
    assert len(aws.requests) == 4 * THREADS, "who has gone is not asked for"


@pytest.mark.parametrize(
    ("api", "why"),
    [
        (Api(("",)), "api.tag_keys: '' is not 1 to 128"),
        (Api(("x" * 129,)), "is not 1 to 128"),
        (Api((":a",)), "begins with a colon"),
        (Api(("aws", "aws:autoscaling:groupName")), "could be forged by the tag 'aws'"),
        (Api(assume_role="../x y"), "api.assume_role"),
        (Api(assume_role="/x"), "api.assume_role"),
        (Api(assume_role="x" * 65), "api.assume_role"),
        (Api(assume_role=f"arn:aws:iam::{ACCOUNT}:role/x"), "api.assume_role"),
    ],
    ids=str,
)
def test_a_table_that_cannot_be_meant_is_refused(api, why):
    with pytest.raises(ConfigError, match=why):
        create(Config((ACCOUNT,), api=api))


def test_without_the_extra_the_table_is_refused_and_the_rest_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(ConfigError, match="needs the extra `aws`"):
        create(Config((ACCOUNT,), api=Api()))
    assert create(Config((ACCOUNT,)))
