"""Deltas: what turns the files of one release into those of the next, in the fewest bytes.

The format is specified in DESIGN.md, section "Delta". The decoder (`apply`, and what it imports) is
part of the client; `encode`, `labels`, `matching`, `lzma2_encoder`, `pairs` and `write` are for the
server and the publisher. Everything here is pure: bytes in, bytes out.
"""
