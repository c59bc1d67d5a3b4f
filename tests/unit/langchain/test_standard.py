"""LangChain's own standard tests of chat models, all of them, over an upstream by rule with every capability.

Skipped there, and why: `test_serdes`, because LangChain's `load` knows no class of a third party; `test_stream_time`,
because it measures a recorded conversation with a provider. Nothing else.
"""

import httpx
import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from aligner_integrations import AlignedChatModel
from tests.unit.langchain.scripted import Scripted
from tests.unit.langchain.support import Named, aligner

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # in the tests' schemas


class Everything:
    """Every capability there is."""

    @property
    def chat_model_class(self):
        return AlignedChatModel

    @property
    def chat_model_params(self):
        return {"llm": Scripted(), "aligner": aligner(lambda prompt: prompt.partition("||")[2].strip() + " (aligned)")}

    @property
    def standard_chat_model_params(self):
        return {}  # the temperature and its like are the upstream's

    @property
    def has_tool_calling(self):
        return True

    @property
    def has_tool_choice(self):
        return True

    @property
    def has_structured_output(self):
        return True

    @property
    def supports_json_mode(self):
        return True

    @property
    def supports_image_inputs(self):
        return True

    @property
    def supports_image_urls(self):
        return True

    @property
    def supports_pdf_inputs(self):
        return True

    @property
    def supports_audio_inputs(self):
        return True

    @property
    def supports_video_inputs(self):
        return True

    @property
    def returns_usage_metadata(self):
        return True

    @property
    def supports_anthropic_inputs(self):
        return True

    @property
    def supports_image_tool_message(self):
        return True

    @property
    def supports_pdf_tool_message(self):
        return True

    @property
    def supports_model_override(self):
        return True

    @property
    def model_override_value(self):
        return "scripted-2"

    @property
    def supported_usage_metadata_details(self):
        kinds = ["audio_input", "audio_output", "reasoning_output", "cache_read_input", "cache_creation_input"]
        return {"invoke": kinds, "stream": kinds}


class TestUnit(Everything, ChatModelUnitTests):
    @property
    def init_from_env_params(self):
        name = "aligner/aligner-7b-v1.0"
        return {"ALIGNER_MODEL": name}, {"llm": Scripted()}, {"aligner": Named(name)}


class TestIntegration(Everything, ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def media(self, monkeypatch):
        """The pictures and sounds that the tests would fetch from the internet."""
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "aligner-integrations")
        monkeypatch.setattr(httpx, "get", lambda url, **kwargs: httpx.Response(200, content=url.encode()))

    def told(self, stream):
        model = self.chat_model_class(**self.chat_model_params)
        if not stream:
            return model.invoke("Hello")
        first, *others = model.stream("Hello")
        return first + others

    def invoke_with_audio_input(self, *, stream=False):
        return self.told(stream)

    def invoke_with_audio_output(self, *, stream=False):
        return self.told(stream)

    def invoke_with_reasoning_output(self, *, stream=False):
        return self.told(stream)

    def invoke_with_cache_read_input(self, *, stream=False):
        return self.told(stream)

    def invoke_with_cache_creation_input(self, *, stream=False):
        return self.told(stream)
