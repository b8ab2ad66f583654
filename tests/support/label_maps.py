"""Label maps as viewers read them: NRRD by its text header, and the parts of an answer that has several."""

import email
import gzip
import json

import numpy as np

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_nrrd(content):
    """Return the array (i, j, k) of a NRRD file, its affine in RAS as NIfTI gives it, and its encoding."""
    head, _, data = content.partition(b"\n\n")
    lines = head.decode("ascii").splitlines()
    assert lines[0].startswith("NRRD000")
    fields = dict(line.split(": ", 1) for line in lines[1:] if not line.startswith("#"))
    assert (fields["type"], fields["space"]) == ("uint8", "left-posterior-superior")
    sizes = [int(size) for size in fields["sizes"].split()]
    values = gzip.decompress(data) if fields["encoding"] == "gzip" else data
    vectors = [[float(part) for part in vector.strip("()").split(",")]
               for vector in (*fields["space directions"].split(" "), fields["space origin"])]  # fmt: skip
    affine = np.eye(4)
    affine[:3] = np.array(vectors).T
    return np.frombuffer(values, np.uint8).reshape(sizes, order="F"), _LPS @ affine, fields["encoding"]


def parts_of(answer):
    """Return the `params` of an answer of several parts, and the content and the file name of its image."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    params, image = email.message_from_bytes(head + answer.content).get_payload()
    assert params.get_param("name", header="content-disposition") == "params"
    assert image.get_param("name", header="content-disposition") == "image"
    return json.loads(params.get_payload(decode=True)), image.get_payload(decode=True), image.get_filename()
