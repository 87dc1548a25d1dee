#include "compare_report.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>

namespace taphold {
namespace {

std::string AddressOf(const CompareKey& key, const uint8_t* address) {
  char text[INET6_ADDRSTRLEN];
  switch (key.ethertype) {
    case ETH_P_IP: return inet_ntop(AF_INET, address + 12, text, sizeof(text));
    case ETH_P_IPV6: return inet_ntop(AF_INET6, address, text, sizeof(text));
    default:
      std::snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", address[0], address[1], address[2],
                    address[3], address[4], address[5]);
      return text;
  }
}

Napi::Object Bytes(Napi::Env env, uint32_t count, uint64_t digest) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016" PRIx64, digest);
  Napi::Object out = Napi::Object::New(env);
  out.Set("bytes", Napi::Number::New(env, count));
  out.Set("digest", Napi::String::New(env, text));
  return out;
}

}  // namespace

Napi::Value ReportEvents(Napi::Env env, const std::vector<CompareEvent>& events) {
  Napi::Array out = Napi::Array::New(env, events.size());
  for (uint32_t i = 0; i < events.size(); i++) {
    const CompareEvent& event = events[i];
    Napi::Object flow = Napi::Object::New(env);
    flow.Set("ethertype", Napi::Number::New(env, event.flow.ethertype));
    flow.Set("protocol", Napi::Number::New(env, event.flow.protocol));
    flow.Set("guest", Napi::String::New(env, AddressOf(event.flow, event.flow.guest)));
    flow.Set("guestPort", Napi::Number::New(env, ntohs(event.flow.guest_port)));
    flow.Set("client", Napi::String::New(env, AddressOf(event.flow, event.flow.client)));
    flow.Set("clientPort", Napi::Number::New(env, ntohs(event.flow.client_port)));
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("finding", Napi::Number::New(env, static_cast<int>(event.finding)));
    entry.Set("difference", Napi::Number::New(env, static_cast<int>(event.difference)));
    entry.Set("flow", flow);
    entry.Set("ageNs", Napi::Number::New(env, static_cast<double>(event.age_ns)));
    entry.Set("portMatched", Napi::Number::New(env, static_cast<double>(event.port_matched)));
    entry.Set("seq", Napi::Number::New(env, event.seq));
    entry.Set("offset", Napi::Number::New(env, event.offset));
    entry.Set("primary", Bytes(env, event.primary_bytes, event.primary_digest));
    entry.Set("shadow", Bytes(env, event.shadow_bytes, event.shadow_digest));
    out.Set(i, entry);
  }
  return out;
}

Napi::Value ReportStats(Napi::Env env, const CompareStats& stats) {
  Napi::Object out = Napi::Object::New(env);
  auto set = [&](const char* name, double value) { out.Set(name, Napi::Number::New(env, value)); };
  auto count = [&](const char* name, uint64_t value) { set(name, static_cast<double>(value)); };
  count("matchedPackets", stats.matched_packets);
  count("matchedBytes", stats.matched_bytes);
  count("divergences", stats.divergences);
  count("late", stats.late);
  count("audited", stats.audited);
  count("auditMismatches", stats.audit_mismatches);
  count("unaudited", stats.unaudited);
  count("shadowPackets", stats.shadow_packets);
  count("shadowBytes", stats.shadow_bytes);
  count("shadowStale", stats.shadow_stale);
  count("shadowDropped", stats.shadow_dropped);
  count("shadowMalformed", stats.shadow_malformed);
  count("untracked", stats.untracked);
  set("lagP50Ms", stats.lags.QuantileMs(0.5));
  set("lagP99Ms", stats.lags.QuantileMs(0.99));
  return out;
}

}  // namespace taphold
