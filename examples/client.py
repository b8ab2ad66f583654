"""Segment an image with a running `c2fvl serve`: python examples/client.py IMAGE [REPORT]. Needs httpx."""

import sys
from pathlib import Path

import httpx

ADDRESS = "http://127.0.0.1:8010/api/v1/"
HEADERS = {"X-C2FVL": "1"}  # with a token also: {"Authorization": "Bearer TOKEN"}


def main(image: str, report: str = "", address: str = ADDRESS) -> None:
    """Print what was found in an image, and write its mask to mask.png."""
    with httpx.Client(base_url=address, headers=HEADERS, timeout=60) as server:
        for wanted in ("json", "mask"):
            with Path(image).open("rb") as file:
                answer = server.post(f"predict?as={wanted}", files={"image": file}, data={"report": report})
            if answer.is_error:
                sys.exit(answer.json()["detail"])
            if wanted == "mask":
                Path("mask.png").write_bytes(answer.content)
            else:
                print(f"Lesion: {100 * answer.json()['area_fraction']:.1f} % of the image.")


if __name__ == "__main__":
    main(*sys.argv[1:])
