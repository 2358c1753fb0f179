"""``expertstream trace capture``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from expertstream.cli.console import Report, print_json, progress
from expertstream.cli.inputs import JsonOption, check_outputs
from expertstream.errors import ConfigError, TraceError
from expertstream.trace.capture import capture
from expertstream.trace.parquet import writer_like
from expertstream.units import counted


def capture_command(
    model: Annotated[str, typer.Option("--model", metavar="PATH|ID", help="A folder or a Hugging Face id.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.parquet", help="The trace to write.")],
    text: Annotated[Path | None, typer.Option("--text", metavar="FILE", help="One request: the whole file.")] = None,
    dataset_file: Annotated[
        Path | None, typer.Option("--dataset-file", metavar="FILE", help="One request per line of the file.")
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Prompt tokens of a request at most.")] = 512,
    generate: Annotated[int, typer.Option("--generate", help="Tokens to generate (greedily) after each prompt.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Requests that run together.")] = 8,
    device: Annotated[str | None, typer.Option("--device", help="Such as cpu or cuda:0. Without: cuda if any.")] = None,
    json: JsonOption = False,
) -> None:
    r"""Run a model on text and write the routing that it chose. Needs the extra: pip install "expertstream\[capture]".

    Example: expertstream trace capture --model path/to/olmoe --text book.txt --generate 64 --output trace.parquet
    """
    if (text is None) == (dataset_file is None):
        raise ConfigError("give one of --text FILE and --dataset-file FILE")
    for option, value, least in (
        ("max-tokens", max_tokens, 1),
        ("generate", generate, 0),
        ("batch-size", batch_size, 1),
    ):
        if value < least:
            raise ConfigError(f"--{option} is {value}; it must be {least} or more")
    if output.suffix != ".parquet":
        raise TraceError(f"'{output}' is not a name for a trace; it must end in .parquet")
    check_outputs(output, read=(text, dataset_file))
    prompts = _prompts(text, dataset_file)
    with progress("capturing") as report:
        document = _run(model, prompts, max_tokens, generate, batch_size, device, output, report)
    if json:
        print_json(document)
    else:
        print(
            f"wrote {output}: {counted(document['n_tokens'], 'token')} ({document['decode_tokens']} of them decode) of "
            f"{counted(len(prompts), 'request')}, {counted(len(document['layers']), 'MoE layer')} of "
            f"{document['n_experts']} experts, k = {document['top_k']}"
        )


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def _prompts(text: Path | None, dataset_file: Path | None) -> list[str]:
    path = text or dataset_file
    try:
        content = path.read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read '{path}': {reason}") from None
    prompts = [content] if text else content.splitlines()
    prompts = [prompt for prompt in prompts if prompt.strip()]
    if not prompts:
        raise ConfigError(f"'{path}' holds no text")
    return prompts


def _run(
    name: str,
    prompts: list[str],
    max_tokens: int,
    generate: int,
    batch_size: int,
    device: str | None,
    output: Path,
    report: Report,
) -> dict[str, Any]:
    """Capture batch by batch, each of which is written before the next; returns what the file holds."""
    if Path(name).is_dir() and not (Path(name) / "config.json").exists():
        raise ConfigError(f"the folder '{name}' holds no model: there is no config.json in it")
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise ConfigError(f'{error.name} is not installed; pip install "expertstream[capture]"') from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto").eval()
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"cannot load the model '{name}': {_in_one_line(error)}") from None
    tokenizer.padding_side = "left"  # so that generation continues the prompt
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ConfigError(f"the tokenizer of '{name}' has neither a padding nor an end token; batches cannot be padded")
    decode = 0
    with torch.inference_mode(), ExitStack() as stack:
        for first in range(0, len(prompts), batch_size):
            batch = tokenizer(
                prompts[first : first + batch_size],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=max_tokens,
                return_token_type_ids=False,
            ).to(model.device)
            with capture(model, name=name) as trace:
                if generate:
                    # the last token that is generated never runs through the model
                    model.generate(
                        **batch,
                        max_new_tokens=generate + 1,
                        do_sample=False,
                        num_beams=1,
                        pad_token_id=tokenizer.pad_token_id,
                    )
                else:
                    model(**batch, use_cache=False)
            if not first:
                file = stack.enter_context(writer_like(trace, output))
            file.append(trace.experts, trace.request + first, trace.position, trace.phase, trace.weights)
            decode += int((trace.phase == 1).sum())
            report(min(first + batch_size, len(prompts)), len(prompts), "requests")
    return {
        "file": str(output),
        "source": trace.source,
        "n_tokens": file.tokens,
        "layers": trace.layer_index.tolist(),
        "n_experts": trace.n_experts,
        "top_k": trace.top_k,
        "prefill_tokens": file.tokens - decode,
        "decode_tokens": decode,
    }
