"""Requests on connections of their own, which share what httpx else reads from the disk for each: certificates."""

import ssl
from functools import partial

import httpx

OPTIONS = {"verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "timeout": 60, "trust_env": False}
get = partial(httpx.get, **OPTIONS)
post = partial(httpx.post, **OPTIONS)
options = partial(httpx.options, **OPTIONS)
stream = partial(httpx.stream, **OPTIONS)
Client = partial(httpx.Client, **OPTIONS)
