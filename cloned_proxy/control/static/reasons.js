// The proxy's reasons in plain words, as `policy/terms/reasons.py` has them (tests/test_shared_rules.py compares).

import { visible } from "./format.js";

export const REASONS = {
  allowed: "A rule allows it",
  host_not_allowed: "No rule allows this host",
  port_not_allowed: "The host is allowed, but not on this port",
  method_not_allowed: "The host is allowed, but not with this method",
  path_not_allowed: "The host is allowed, but not this path",
  explicit_deny: "A rule denies it",
  ip_literal: "An IP address that no rule names",
  address_not_allowed: "The name leads to a private or reserved address",
  identity_missing: "The caller did not say which tool it is",
  identity_invalid: "The caller's credential is not genuine",
  identity_expired: "The caller's credential has expired",
  identity_mismatch: "The credential belongs to another tool",
  sni_mismatch: "TLS was meant for another host than the tunnel",
  sni_missing: "TLS did not name its host",
  host_header_mismatch: "The Host header names another host",
  protocol_not_allowed: "The tunnel did not carry TLS",
  malformed_request: "The request can be read in more than one way",
  lease_expired: "The rule that allowed it has expired",
  lease_used_up: "The rule that allowed it is used up",
  too_young: "The package is younger than its rule wants",
  secret_leak: "The request carried a secret that is not this tool's",
  secret_echoed: "The answer repeated a secret",
  limit_exceeded: "The tool's limit is reached",
  store_unavailable: "The store of the fleet cannot count the uses of its rule now",
  policy_unavailable: "No valid policy is loaded",
  internal_error: "A fault of the proxy itself",
};

/** Unknown ones stand as they are: a newer server may know more than this page. */
export const inWords = (reason) => REASONS[reason] ?? visible(reason);
