"""The official client gets from the server what `generate` gives, whole or streamed, whoever else asks."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from typing import Any

import openai
import pytest

from latbench.decoding.loop import Generation, Prompt
from latbench.runs.run import Run
from tests.serving.conftest import Server, serving


def offline(run: Run, question: str, *, sample: int = 0, seed: int | None = None, **settings: Any) -> Generation:
    """The answer of the run itself."""
    config = replace(run.config.generate, **settings)
    prompt = Prompt(id=question, text=question, sample=sample)
    chosen = run.config.seed if seed is None else seed
    return run.method.generate([prompt], config, seed=chosen, trace=True)[0]


def chat(server: Server, question: str, **settings: Any) -> Any:
    messages: Any = [{"role": "user", "content": question}]
    return server.client().chat.completions.create(model="ours", messages=messages, **settings)


def streamed(chunks: Any) -> tuple[str, str, list[Any], list[Any], Any]:
    """Text, reasoning, latent steps and ends of a streamed chat, and its usage."""
    text, reasoning, usage = "", "", None
    latents: list[Any] = []
    ends: list[Any] = []
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            latents += getattr(choice.delta, "latents", None) or []
            ends += [choice.finish_reason] if choice.finish_reason else []
    return text, reasoning, latents, ends, usage


def post(server: Server, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize("kind", ["explicit", "latent"])
def test_answers_at_temperature_0_are_those_of_the_run(
    kind: str, request: pytest.FixtureRequest, questions: list[str]
) -> None:
    server: Server = request.getfixturevalue(kind)
    expected = [offline(server.run, question) for question in questions]
    assert len({answer.text + answer.reasoning for answer in expected}) > 3
    with ThreadPoolExecutor(6) as pool:  # more than the batch has rows
        replies = list(pool.map(lambda question: chat(server, question, temperature=0), questions))
        streams = list(pool.map(lambda question: streamed(chat(server, question, stream=True)), questions))
    for reply, told, answer in zip(replies, streams, expected, strict=True):
        (choice,) = reply.choices
        assert choice.message.content == told[0] == answer.text
        assert choice.message.reasoning_content == told[1] == answer.reasoning
        assert choice.finish_reason == told[3][0] == ("length" if answer.stop_reason == "length" else "stop")
    many = server.client().completions.create(model="ours", prompt=questions)
    assert [choice.text for choice in many.choices] == [answer.text for answer in expected]
    assert [choice.index for choice in many.choices] == list(range(len(questions)))
    assert server.idle()


def test_a_stream_begins_with_the_box_that_the_marker_opens(
    latent: Server, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = latent.run.method.backbone.layout
    monkeypatch.setattr(layout, "spec", replace(layout.spec, answer_opening=r"\boxed"))
    answer = offline(latent.run, questions[0])
    assert answer.text.startswith(r"\boxed")
    assert streamed(chat(latent, questions[0], stream=True))[0] == answer.text
    raw = streamed(chat(latent, questions[0], stream=True, extra_body={"raw": True}))[0]
    assert raw
    assert not raw.startswith(r"\boxed")


def test_usage_counts_latent_and_reasoning_tokens(latent: Server, explicit: Server, questions: list[str]) -> None:
    for server in (latent, explicit):
        answer = offline(server.run, questions[0])
        asked: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}, "n": 2}
        for usage in (chat(server, questions[0], n=2).usage, streamed(chat(server, questions[0], **asked))[4]):
            details = usage.completion_tokens_details
            assert details.latent_tokens == 2 * answer.num_latents
            assert details.reasoning_tokens == 2 * (answer.num_reasoning_tokens or 0)
            spoken = answer.num_latents + (answer.num_reasoning_tokens or 0) + answer.num_answer_tokens
            assert usage.completion_tokens == 2 * spoken
            assert usage.prompt_tokens == answer.num_prompt_tokens
            assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert offline(latent.run, questions[0]).num_latents > 0


def test_latents_are_told_with_their_top_tokens(latent: Server, questions: list[str]) -> None:
    answer = offline(latent.run, questions[0])
    assert answer.trace is not None
    decode = latent.run.method.backbone.tokenizer.decode
    expected = [[decode([token]) for token in ids[:5]] for ids in answer.trace.ids.tolist()]
    asked: dict[str, Any] = {"extra_body": {"latents": True}}
    whole = chat(latent, questions[0], **asked).choices[0].message.latents
    told = streamed(chat(latent, questions[0], stream=True, **asked))[2]
    text = latent.client().completions.create(model="ours", prompt=questions[0], **asked).choices[0]
    assert whole == told == text.latents
    assert [[entry["token"] for entry in step["tokens"]] for step in whole] == expected
    weights = [[entry["probability"] for entry in step["tokens"]] for step in whole]
    assert weights == [pytest.approx(row[:5], abs=6e-4) for row in answer.trace.weights.tolist()]
    assert not hasattr(chat(latent, questions[0]).choices[0].message, "latents")


def test_sampled_answers_are_keyed_by_seed_and_number(latent: Server, questions: list[str]) -> None:
    reply = chat(latent, questions[0], n=3, temperature=1.5, seed=7, max_tokens=9)
    texts = [choice.message.content for choice in reply.choices]
    settings: dict[str, Any] = {"temperature": 1.5, "max_new_tokens": 9, "seed": 7}
    assert texts == [offline(latent.run, questions[0], sample=sample, **settings).text for sample in range(3)]
    assert len(set(texts)) > 1
    values = product((0.5, 1.0, 2.0), (0.6, 0.8, 1.0))
    mixed: list[dict[str, Any]] = [{"temperature": value, "top_p": top_p} for value, top_p in values]
    with ThreadPoolExecutor(9) as pool:  # more settings than are decoded side by side
        replies = list(pool.map(lambda given: chat(latent, questions[1], **given), mixed))
    found = [reply.choices[0].message.content for reply in replies]
    assert found == [offline(latent.run, questions[1], **given).text for given in mixed]


def test_stop_strings_lengths_and_raw_prompts(explicit: Server) -> None:
    whole = explicit.client().completions.create(model="ours", prompt="n0=3+4", extra_body={"raw": True}, max_tokens=12)
    text = whole.choices[0].text
    stop = next(text[i : i + 2] for i in range(2, len(text) - 1) if text.index(text[i : i + 2]) == i)
    for stream in (False, True):
        asked: dict[str, Any] = {"extra_body": {"raw": True}, "max_tokens": 12, "stop": [stop], "stream": stream}
        cut = explicit.client().completions.create(model="ours", prompt="n0=3+4", **asked)
        parts = [choice for chunk in cut for choice in chunk.choices] if stream else cut.choices
        assert "".join(choice.text for choice in parts) == text[: text.index(stop)]
        assert parts[-1].finish_reason == "stop"
    short = explicit.client().completions.create(model="ours", prompt="n0=3+4", extra_body={"raw": True}, max_tokens=3)
    assert text.startswith(short.choices[0].text)
    assert short.usage is not None
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (3, "length")


def test_several_messages_are_one_question(explicit: Server, questions: list[str]) -> None:
    parts: Any = [{"type": "text", "text": questions[0]}]
    messages: Any = [{"role": "system", "content": "Hi."}, {"role": "user", "content": parts}]
    reply = explicit.client().chat.completions.create(model="ours", messages=messages)
    answer = offline(explicit.run, f"Hi.\n\n{questions[0]}")
    assert reply.usage is not None
    assert (reply.choices[0].message.content, reply.usage.prompt_tokens) == (answer.text, answer.num_prompt_tokens)


def test_models_are_listed(latent: Server) -> None:
    listed: list[Any] = latent.client().models.list().data  # `method` is no field of the client's
    (model,) = listed
    assert (model.id, model.method, latent.client().models.retrieve("ours").id) == ("ours", "coconut", "ours")
    with pytest.raises(openai.NotFoundError, match="this server has 'ours'"):
        latent.client().models.retrieve("theirs")


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"model": "theirs"}, 404, "unknown model 'theirs'; this server has 'ours'"),
        ({"temprature": 1}, 400, "unknown key 'temprature'; did you mean 'temperature'"),
        ({"temperature": -1}, 400, "temperature: Input should be greater than or equal to 0"),
        ({"temperature": "hot"}, 400, "temperature: Input should be a valid number"),
        ({"max_tokens": 65}, 400, "max_tokens must be <= 64, got 65; ask for less, or serve with --max-tokens"),
        ({"max_completion_tokens": 65}, 400, "max_tokens must be <= 64"),
        ({"n": 65}, 400, "n: Input should be less than or equal to 64"),
        ({"logprobs": True}, 400, "logprobs is not supported; leave it out"),
        ({"tools": [{}]}, 400, "tools is not supported"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty is not supported"),
        ({"messages": []}, 400, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "a" * 5000}]}, 400, "more than the context of"),
        ({"messages": [{"role": "user", "content": "a" * 5000}], "stream": True}, 400, "more than the context of"),
        ({"stop": [""] * 17}, 400, "stop"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_sentence(
    latent: Server, change: dict[str, Any], status: int, sentence: str
) -> None:
    body = {"model": "ours", "messages": [{"role": "user", "content": "n0?"}], **change}
    found, reply = post(latent, "/v1/chat/completions", body)
    assert found == status, reply
    assert sentence in reply["error"]["message"]
    assert "\n" not in reply["error"]["message"]
    assert latent.idle()


def test_what_asks_for_nothing_is_taken(latent: Server) -> None:
    neutral = {"frequency_penalty": 0, "logprobs": False, "user": "me", "tools": [], "response_format": None}
    body = {"model": "ours", "messages": [{"role": "user", "content": "n0?"}], "stop": [None, "x"], **neutral}
    assert post(latent, "/v1/chat/completions", body)[0] == 200


def test_foreign_bodies_hosts_and_paths_are_refused(latent: Server) -> None:
    path, body = "/v1/completions", {"model": "ours", "prompt": "n0?"}
    assert post(latent, path, body, **{"Content-Type": "text/plain"})[0] == 415
    assert post(latent, path, b"{")[1]["error"]["message"] == "the body is no JSON"
    assert post(latent, path, b"[" * 100_000)[0] == 400
    for half in (b'{"model":"ours","prompt":"\\ud800"}', b'{"model":"ours","\\ud800":1}', b'"\xed\xa0\x80"'):
        assert post(latent, path, half)[0] == 400
        assert "half of a surrogate pair" in post(latent, path, half)[1]["error"]["message"]
    assert post(latent, path, b"[]")[1]["error"]["message"] == "the body must be a JSON object"
    assert post(latent, path, {**body, "prompt": "a" * (1 << 20)})[0] == 413
    assert post(latent, "/v1/embeddings", body)[0] == 404
    assert post(latent, "/v1/models", body)[0] == 405
    request = urllib.request.Request(f"{latent.url}/v1/models", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)
    assert latent.idle()


def test_with_a_key_nobody_else_is_answered(explicit_run: Run) -> None:
    with serving(explicit_run, api_key="säkret") as server:
        for path in ("/v1/completions", "/v1/chat/completions"):
            assert post(server, path, {"model": "ours", "prompt": "n0?"})[0] == 401
        with pytest.raises(openai.AuthenticationError, match="wants its API key"):
            server.client(api_key="other").models.list()
        body = {"model": "ours", "prompt": "n0?"}
        key = "Bearer säkret".encode().decode("latin-1")
        assert post(server, "/v1/completions", body, Authorization=key)[0] == 200
        with urllib.request.urlopen(f"{server.url}/") as page:
            assert page.status == 200


def test_a_full_queue_answers_429_and_empties(explicit_run: Run, questions: list[str]) -> None:
    with serving(explicit_run, batch_size=1, max_queue=2) as server:
        release = threading.Event()
        server.engine._inbox.append(release.wait)  # holds the engine's thread
        with server.engine._changed:
            server.engine._changed.notify()
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(chat, server, question) for question in questions[:3]]
            while server.engine.num_open < 3:
                pass
            with pytest.raises(openai.RateLimitError, match="3 answers are being worked on") as refused:
                chat(server, questions[3])
            assert refused.value.response.headers["retry-after"] == "1"
            release.set()
            texts = [reply.result().choices[0].message.content for reply in waiting]
        assert texts == [offline(explicit_run, question).text for question in questions[:3]]
        assert chat(server, questions[3]).choices[0].message.content == offline(explicit_run, questions[3]).text


def test_who_hangs_up_frees_the_row(latent_run: Run, questions: list[str]) -> None:
    with serving(latent_run, batch_size=1, max_queue=1) as server:
        release = threading.Event()
        for stream in (True, False):
            release.clear()
            server.engine._inbox.append(release.wait)
            impatient = server.client(timeout=0.3)
            messages: Any = [{"role": "user", "content": questions[0]}]
            with pytest.raises(openai.APITimeoutError):
                impatient.chat.completions.create(model="ours", messages=messages, stream=stream)
            release.set()
            assert server.idle()
        with server.client().chat.completions.create(model="ours", messages=messages, stream=True) as stream_:
            next(iter(stream_))
        assert server.idle()
        assert chat(server, questions[1]).choices[0].message.content == offline(latent_run, questions[1]).text


def test_a_failing_step_fails_its_questions_and_no_later_ones(
    latent_run: Run, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from latbench.decoding.session import Session

    with serving(latent_run) as server:
        step = Session.step

        def broken(session: Session) -> dict[int, Generation]:
            raise RuntimeError("out of memory")

        monkeypatch.setattr(Session, "step", broken)
        with pytest.raises(openai.InternalServerError, match="decoding failed: RuntimeError"):
            chat(server, questions[0])
        with pytest.raises(openai.APIError, match="decoding failed: RuntimeError"):
            streamed(chat(server, questions[0], stream=True))
        monkeypatch.setattr(Session, "step", step)
        assert server.idle()
        assert chat(server, questions[0]).choices[0].message.content == offline(latent_run, questions[0]).text


def test_a_question_that_cannot_be_read_fails_alone(
    explicit_run: Run, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(explicit_run) as server:
        with monkeypatch.context() as patch:

            def broken(_prompt: object, _config: object) -> list[int]:
                raise TypeError("no text")

            patch.setattr(explicit_run.method, "fed_ids", broken)
            with pytest.raises(openai.InternalServerError, match="the question could not be read: TypeError"):
                chat(server, questions[0])
        assert server.idle()
        assert chat(server, questions[0]).choices[0].message.content == offline(explicit_run, questions[0]).text


def test_stopping_answers_what_was_asked_and_nothing_more(explicit_run: Run, questions: list[str]) -> None:
    with serving(explicit_run, batch_size=2) as server, ThreadPoolExecutor(4) as pool:
        release = threading.Event()
        server.engine._inbox.append(release.wait)
        waiting = [pool.submit(chat, server, question) for question in questions[:4]]
        while server.engine.num_open < 4:
            pass
        stopping = threading.Thread(target=server.engine.close, args=(20.0,))
        stopping.start()
        while not server.engine._closing:
            pass
        with pytest.raises(openai.APIStatusError, match="the server is stopping") as refused:
            chat(server, questions[4])
        assert refused.value.status_code == 503
        release.set()
        texts = [reply.result().choices[0].message.content for reply in waiting]
        stopping.join()
    assert texts == [offline(explicit_run, question).text for question in questions[:4]]
