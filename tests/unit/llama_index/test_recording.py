"""Records of corrections in LlamaIndex belong to its span, and name the caller's own aligner."""

from llama_index.core.instrumentation import get_dispatcher

from aligner_integrations.llama_index.corrector import Corrector
from aligner_integrations.recording import read_records
from tests.unit.support import aligner_of, mend

dispatcher = get_dispatcher("test")


async def test_records_name_the_span_and_the_aligner(tmp_path):
    aligner = aligner_of(mend, record=tmp_path / "c.jsonl")
    corrector = Corrector(aligner)

    @dispatcher.span
    def one():
        corrector.correct("q", "bad 1")
        corrector.correct("q", "bad 2 [1].")
        corrector.correct_texts("q", ["bad 3"])
        list(corrector.stream("q", "bad 4"))

    @dispatcher.span
    async def two():
        await corrector.acorrect("q", "bad 5")
        await corrector.acorrect_texts("q", ["bad 6"])
        [piece async for piece in corrector.astream("q", "bad 7")]

    one()
    await two()
    aligner.record.close()
    found = list(read_records(tmp_path / "c.jsonl"))
    assert [r.correction.answer[:5] for r in found] == [f"bad {n}" for n in range(1, 8)]
    assert {r.aligner for r in found} == {aligner.fingerprint}
    assert len({r.request for r in found[:4]}) == len({r.request for r in found[4:]}) == 1
    assert found[0].request.startswith("test_records") and found[0].request != found[4].request
