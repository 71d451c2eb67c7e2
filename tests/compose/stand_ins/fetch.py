#!/usr/bin/env python3
"""As `wget -q -O /dev/null URL` and `curl -fsS URL`: ends with 0 when the URL answers well. For health checks."""

import sys
import urllib.request

urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[-1], timeout=3).read()
