"""An HTTP service around an exported model, as an example to start from.

    python -m queryinst_runtime.service model.onnx --port 8000
    curl --data-binary @photo.jpg "http://localhost:8000/predict?score=0.5"

Beyond the package it needs FastAPI and uvicorn.
"""

import argparse
import asyncio
import io
from typing import Annotated, Any

import numpy as np
from PIL import UnidentifiedImageError

from .images import open_image, upright_rgb
from .results import Result
from .session import Session

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Query, Request
    from fastapi.concurrency import run_in_threadpool
except ImportError as error:
    raise ImportError(
        "the service needs FastAPI and uvicorn: pip install queryinst[serve]"
    ) from error

MAX_BYTES = 20_000_000  # of an upload
MAX_PIXELS = 50_000_000  # of an image, height x width


def make_app(
    session: Session,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    max_running: int = 2,
) -> FastAPI:
    """The service.

    Args:
        max_bytes, max_pixels: larger uploads and images are refused with status 413.
        max_running: images that are predicted at once; more requests wait.
    """
    app = FastAPI(title="QueryInst")
    running = asyncio.Semaphore(max_running)

    @app.get("/health")
    def health() -> dict[str, Any]:
        about = session.description
        classes = about.thing_classes
        return {"status": "ok", "model": about.source, "digest": about.digest, "classes": classes}

    @app.post("/predict")
    async def predict(
        request: Request, score: Annotated[float, Query(ge=0, le=1)] = 0.5
    ) -> dict[str, Any]:
        """The objects of the image in the request's body: a file, as JPEG or PNG."""
        body = await _read_body(request, max_bytes)
        async with running:
            return await run_in_threadpool(_predict, session, body, score, max_pixels)

    return app


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """The body; it is not read on when it is too long, whatever its header says."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise HTTPException(413, f"the body has more than {max_bytes} bytes")
    return bytes(body)


def _predict(session: Session, body: bytes, score: float, max_pixels: int) -> dict[str, Any]:
    result = session(_decode(body, max_pixels), score=score)
    height, width = result.image_size
    return {"height": height, "width": width, "objects": _objects_of(result)}


def _decode(body: bytes, max_pixels: int) -> np.ndarray:
    """A file's bytes -> (H, W, 3) uint8, RGB, upright."""
    try:
        with open_image(io.BytesIO(body)) as image:
            if image.width * image.height > max_pixels:  # known before pixels are decoded
                size = f"{image.width} x {image.height}"
                raise HTTPException(413, f"the image has {size} pixels, more than {max_pixels}")
            return upright_rgb(image)
    except UnidentifiedImageError:
        raise HTTPException(400, "the body is no image that Pillow can read") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise HTTPException(400, f"the body is no image: {error}"[:200]) from None


def _objects_of(result: Result) -> list[dict[str, Any]]:
    """Of each object: class, name, score, box (XYXY in pixels) and run-length code."""
    return [
        {
            "class": int(result.classes[index]),
            "name": result.names[index],
            "score": float(result.scores[index]),
            "box": result.boxes[index].tolist(),
            "rle": result.rle(index) if result.has_masks else None,
        }
        for index in range(len(result))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="queryinst_runtime.service", description=__doc__)
    parser.add_argument("model", help="an ONNX file of queryinst export")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=0, help="of one prediction; 0: all cores")
    parser.add_argument("--max-running", type=int, default=2, help="predictions at once")
    args = parser.parse_args()
    session = Session(args.model, num_threads=args.threads)
    uvicorn.run(make_app(session, max_running=args.max_running), host=args.host, port=args.port)


if __name__ == "__main__":
    main()
