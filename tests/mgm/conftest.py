"""The checkpoints and bundles of a session, and which of MGM's classes it must run."""

import pytest
from harness import FAMILIES, Made, provide_deepspeed


def pytest_configure(config):
    config.addinivalue_line("markers", "loads: see tests/python/support_table.py")


def pytest_addoption(parser):
    parser.addoption("--classes", help=f"run these of {','.join(FAMILIES)} and fail where one is skipped")


def pytest_generate_tests(metafunc):
    if "family" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--classes")
        metafunc.parametrize("family", asked.split(",") if asked else FAMILIES, indirect=True, scope="module")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    skipped = session.config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])
    if session.config.getoption("--classes") and skipped and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    provide_deepspeed(tmp_path_factory.mktemp("empty"))
    return Made(tmp_path_factory.mktemp("mgm"))
