"""Which mounts and masks a run gets, for every way in which a workspace can lie in what it is shown."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cloned_proxy.runner.llm import model
from cloned_proxy.runner.llm.plan import plan_model
from cloned_proxy.runner.project.aftermath import Aftermath, looking_back
from cloned_proxy.runner.project.masks import refuse_secrets
from cloned_proxy.runner.project.place import ProjectAccess
from cloned_proxy.runner.project.view import ProjectWish, View, _resolved, view_of
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.spec import Mount
from cloned_proxy.store.settings.config import LlmSettings


@pytest.fixture
def project(tmp_path: Path) -> Path:
    found = tmp_path / "code"
    (found / ".cloned/ca").mkdir(parents=True)
    (found / ".cloned/identity.key").write_text("key")
    return found


def _view(project: Path, *mounts: Mount, wish: ProjectWish | None = None, workspace: Path | None = None) -> View:
    return view_of(wish or ProjectWish(), workspace or project / ".cloned", mounts, project)


def _mount(source: Path) -> Mount:
    return Mount(str(source), "/mnt/x", read_only=False)


def test_by_default_the_project_is_at_one_place_and_masked(project: Path) -> None:
    view = _view(project)
    assert view.binds == (Mount(str(project), "/workspace"),)
    assert (view.masked, view.workdir) == (("/workspace/.cloned",), "/workspace")


def test_at_its_own_path_everything_is_twice(project: Path) -> None:
    (project / "sub/.cloned").mkdir(parents=True)
    (project / "sub/.git").mkdir()
    view = _view(project, wish=ProjectWish(own_path=True))
    assert {bind.target for bind in view.binds} == {"/workspace", str(project)}
    names = (".cloned", "sub/.cloned")
    assert set(view.masked) == {f"{place}/{name}" for place in ("/workspace", project) for name in names}
    assert set(view.repositories) == {"/workspace/sub", f"{project}/sub"}
    assert view.workdir == str(project)


def test_without_a_project_nothing_is_shown(project: Path) -> None:
    view = _view(project, wish=ProjectWish(access=ProjectAccess.NONE, own_path=True))
    assert (view.binds, view.masked, view.workdir) == ((), (), "/sandbox")


@pytest.mark.parametrize("place", ["/workspace", "/sandbox", "/home/tool", "/home/tool/deep", "/mnt/x"])
def test_a_command_may_begin_in_any_place_of_the_sandbox(project: Path, tmp_path: Path, place: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    view = _view(project, _mount(other), wish=ProjectWish(own_path=True, workdir=place))
    assert view.workdir == place


def test_every_workspace_in_every_mount_is_masked(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "a/b/.cloned").mkdir(parents=True)
    (other / "a/.cloned").write_text("a file")
    view = _view(project, _mount(other))
    assert set(view.masked) == {"/workspace/.cloned", "/mnt/x/a/b/.cloned"}
    assert Mount("/dev/null", "/mnt/x/a/.cloned") in view.binds


def test_the_project_can_be_mounted_although_its_workspace_has_sockets(project: Path) -> None:
    (project / ".cloned/run").mkdir()
    os.mkfifo(project / ".cloned/run/slots.sock")
    assert "/mnt/x/.cloned" in _view(project, _mount(project)).masked


def test_sockets_and_fifos_are_hidden_wherever_they_are_seen(project: Path, tmp_path: Path) -> None:
    """Whoever is behind one is on the host; a read-only mount keeps nobody from a connect."""
    other = tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    os.mkfifo(other / "deep/fifo")
    os.mkfifo(project / "agent.sock")
    view = _view(project, _mount(other))
    hidden = {mount.target for mount in view.binds if mount.source == "/dev/null"}
    assert hidden == {"/workspace/agent.sock", "/mnt/x/deep/fifo"}


def test_a_workspace_of_another_name_is_masked(project: Path) -> None:
    (project / ".cloned").rename(project / "keys")
    assert _view(project, workspace=project / "keys").masked == ("/workspace/keys",)


def test_what_a_link_called_so_leads_to_is_masked(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "deep/keys").mkdir(parents=True)
    (project / "sub").mkdir()
    (project / "sub/.cloned").symlink_to(other / "deep/keys")
    (project / "key").write_text("")
    (project / "deeper").mkdir()
    (project / "deeper/.cloned").symlink_to("../key")
    view = _view(project, _mount(other))
    assert set(view.masked) == {"/workspace/.cloned", "/mnt/x/deep/keys"}
    assert Mount("/dev/null", "/workspace/key") in view.binds
    (project / "deeper/.cloned").unlink()
    (project / "deeper/.cloned").symlink_to("..")
    with pytest.raises(SandboxInputError, match="remove the link"):
        _view(project)


def test_what_lies_in_something_masked_is_neither_masked_nor_guarded_again(project: Path) -> None:
    (project / "keys/sub/.cloned").mkdir(parents=True)
    (project / "keys/repository/.git/hooks").mkdir(parents=True)
    (project / "deep").mkdir()
    (project / "deep/.cloned").symlink_to("../keys")
    view = _view(project, wish=ProjectWish(access=ProjectAccess.READ_WRITE))
    assert set(view.masked) == {"/workspace/.cloned", "/workspace/keys"}
    assert not [bind for bind in view.binds if "/keys" in bind.target]


@pytest.mark.parametrize("inside", [".cloned", ".cloned/ca", ".cloned/identity.key", "link"])
def test_nothing_in_a_workspace_can_be_mounted(project: Path, tmp_path: Path, inside: str) -> None:
    (project / "link").symlink_to(project / ".cloned/ca")
    with pytest.raises(SandboxInputError, match="lies in a workspace"):
        _view(project, _mount(project / inside), wish=ProjectWish(access=ProjectAccess.NONE))


@pytest.mark.parametrize("where", ["in the project", "in a mount", "as a mount"])
def test_a_key_under_a_second_name_is_refused(project: Path, tmp_path: Path, where: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    copy = (project if where == "in the project" else other) / "innocent"
    copy.hardlink_to(project / ".cloned/identity.key")
    mounts = {"in the project": [], "in a mount": [_mount(other)], "as a mount": [_mount(copy)]}[where]
    with pytest.raises(SandboxInputError, match=r"innocent is the same file as .*identity.key"):
        _view(project, *mounts)


def test_a_second_name_where_no_tool_looks_is_nobodys_business(project: Path, tmp_path: Path) -> None:
    (tmp_path / "backup").hardlink_to(project / ".cloned/identity.key")
    assert _view(project).masked


def test_a_mount_over_the_project_is_refused(project: Path) -> None:
    elsewhere = Path("/srv/people/code")
    for target in (f"{elsewhere}/sub", str(elsewhere), "/srv/people"):
        with pytest.raises(SandboxInputError, match=r"the project .* is there"):
            _resolved(Mount("/usr/share", target), project / ".cloned", elsewhere)
    assert _resolved(Mount("/usr/share", "/srv/x"), project / ".cloned", elsewhere).target == "/srv/x"


def test_a_name_that_cannot_be_written_down_is_refused(project: Path) -> None:
    (project / os.fsdecode(b"\xff") / ".cloned").mkdir(parents=True)
    with pytest.raises(SandboxInputError, match="not UTF-8"):
        _view(project)


def test_a_directory_that_is_shown_as_it_is_must_hold_no_workspace(project: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "deep").mkdir(parents=True)
    refuse_secrets(models, project / ".cloned")
    for shown in (project, project.parent, project / ".cloned/ca"):
        with pytest.raises(SandboxInputError, match="a workspace, whose keys nobody may see"):
            refuse_secrets(shown, project / ".cloned")
    os.mkfifo(models / "deep/door")
    with pytest.raises(SandboxInputError, match="contains sockets or FIFOs"):
        refuse_secrets(models, project / ".cloned")


def test_a_model_is_shown_no_workspace_either(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "may_enter", lambda: True)
    for settings, models in ((LlmSettings(), project), (LlmSettings(cache=str(project)), project.parent / "models")):
        models.mkdir(exist_ok=True)
        plan = plan_model(settings, models, image="i", user="1:1", processors=[0], files=["a.gguf"])
        with pytest.raises(SandboxInputError, match="a workspace, whose keys nobody may see"):
            model.start_model(None, plan, project / ".cloned")  # type: ignore[arg-type]  # no engine is asked


@pytest.mark.slow
def test_of_50_000_files_nothing_is_passed_over(project: Path) -> None:
    for directory in range(500):
        place = project / str(directory % 40) / str(directory)
        place.mkdir(parents=True)
        for number in range(100):
            os.close(os.open(place / f"{number}.py", os.O_CREAT | os.O_WRONLY))
    (project / "39/479/.cloned").mkdir()
    told: list[Aftermath] = []
    began = time.process_time()
    view = _view(project, wish=ProjectWish(access=ProjectAccess.READ_WRITE))
    with looking_back(view, told.append, every_file=True, spool=project / ".cloned/run"):
        (project / "0/40/7.py").write_text("changed\n")
    assert time.process_time() - began < 60, "of the processor's time: 2 s on a slow machine"
    assert "/workspace/39/479/.cloned" in view.masked
    assert view.trees[0].survey.entries > 50_000
    assert [file.path for file in told[0].files or ()] == ["0/40/7.py"]
