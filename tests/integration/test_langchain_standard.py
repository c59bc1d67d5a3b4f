"""LangChain's own standard tests of chat models on a real local model with the embedded aligner behind it.

SmolLM2-135M calls no tools, writes no JSON to a schema and sees no pictures, so these are off: tool calling (with it the tests
of tool choice, tool messages and agents), structured output and JSON mode, and media (pictures, PDF, sound, video, and the messages in
Anthropic's form, which are about tools and pictures). What is skipped beside: `test_serdes`, because LangChain's `load`
knows no class of a third party, and `test_stream_time`, because it measures a recorded conversation with a provider.
All of them run over a model by rule in `tests/unit/langchain/test_standard.py`.
"""

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from aligner_integrations import AlignedChatModel, Aligner
from aligner_integrations.models import EMBEDDED
from tests.integration.smollm import SmolChat
from tests.unit.langchain.support import Named

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),  # in the tests' schemas
    pytest.mark.skipif(
        not (EMBEDDED / "adapter_model.safetensors").exists(), reason="the embedded adapter has not been trained yet"
    ),
]


class Local:
    """A real local model: all that is not about tools, structured output or media."""

    @pytest.fixture(autouse=True)
    def _other_model(self, random_model):
        self.other_model = str(random_model)

    @property
    def chat_model_class(self):
        return AlignedChatModel

    @property
    def chat_model_params(self):
        return {"llm": SmolChat(longest=24), "aligner": Aligner()}

    @property
    def standard_chat_model_params(self):
        return {}  # the temperature and its like are the upstream's

    @property
    def has_tool_calling(self):
        return False

    @property
    def has_structured_output(self):
        return False

    @property
    def supports_model_override(self):
        return True

    @property
    def model_override_value(self):
        return self.other_model


class TestUnit(Local, ChatModelUnitTests):
    @property
    def init_from_env_params(self):
        return {"ALIGNER_MODEL": "embedded"}, {"llm": SmolChat()}, {"aligner": Named("embedded")}


class TestIntegration(Local, ChatModelIntegrationTests):
    pass
