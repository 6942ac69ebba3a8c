"""The page's components, without a browser."""

import asyncio
from pathlib import Path

import pytest

from otprune import page

pytestmark = pytest.mark.page


@pytest.fixture(scope="module")
def built(loaded):
    pytest.importorskip("gradio")
    from otprune.page import layout

    return layout.build(loaded)


def test_no_component_fetches_anything(built):
    import gradio

    assert len(built.blocks) > 30
    for block in built.blocks.values():
        for address in ("http://192.0.2.1/a.png", "https://192.0.2.1/a.png"):
            with pytest.raises(gradio.Error, match="has to be uploaded"):
                asyncio.run(block.async_move_resource_to_block_cache(address))


def test_no_handler_is_a_public_interface(built):
    handlers = built.config["dependencies"]
    assert len(handlers) >= 10
    assert {one["api_visibility"] for one in handlers} == {"private"}


def test_gradio_writes_nothing_beside_the_package(built):
    assert not list(Path(page.__file__).parent.glob("*.pyi"))


def test_nothing_is_sent_anywhere(built):
    assert built.analytics_enabled is False
    assert built.share is False
