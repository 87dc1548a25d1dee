// The module's entry: one set of classes per environment.
#include <bpf/libbpf.h>
#include <napi.h>
#include <net/if.h>

#include <cerrno>

#include "args.h"
#include "btf.h"
#include "error.h"
#include "libbpf_version.h"
#include "link.h"
#include "log_capture.h"
#include "map.h"
#include "object.h"
#include "probe.h"
#include "program.h"
#include "ring_buffer.h"
#include "tcx.h"
#include "user_ring_buffer.h"

static_assert(LIBBPF_NAPI_HAS(1, 3),
              "libbpf-napi needs libbpf 1.3 or later (bpf_program__attach_tcx); on Debian 12 install "
              "libbpf-dev from bookworm-backports");

namespace libbpf_napi {
namespace {

// ifIndex(name): the index of an interface in this thread's network namespace.
Napi::Value IfIndex(const Napi::CallbackInfo& info) {
  std::string name = TextOf(info[0]);
  unsigned index = if_nametoindex(name.c_str());
  if (index == 0) return ThrowBpf(info.Env(), "find", Quoted("interface", name.c_str()), errno);
  return Napi::Number::New(info.Env(), index);
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  LogCapture::Install();
  auto* data = new EnvData();
  env.SetInstanceData(data);
  auto define = [&](const char* name, Napi::Function constructor) {
    exports.Set(name, constructor);
    return Napi::Persistent(constructor);
  };
  data->object_class = define("NativeObject", Object::Define(env));
  data->map_class = Napi::Persistent(Map::Define(env));
  data->program_class = Napi::Persistent(Program::Define(env));
  data->link_class = Napi::Persistent(Link::Define(env));
  data->btf_class = define("NativeBtf", Btf::Define(env));
  exports.Set("NativeRingBuffer", RingBuffer::Define(env));
  exports.Set("NativeUserRingBuffer", UserRingBuffer::Define(env));

  auto function = [&](const char* name, Napi::Value (*body)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, body, name));
  };
  function("setErrorFactory", SetErrorFactory);
  function("ifIndex", IfIndex);
  function("createMap", Map::Create);
  function("mapFromPinned", Map::FromPinned);
  function("mapFromId", Map::FromId);
  function("programFromPinned", Program::FromPinned);
  function("programFromId", Program::FromId);
  function("linkFromPinned", Link::FromPinned);
  function("linkFromId", Link::FromId);
  function("queryTcx", QueryTcx);
  function("detachTcx", DetachTcx);
  function("tcxSupported", TcxSupported);
  function("probeProgramType", ProbeProgramType);
  function("probeMapType", ProbeMapType);
  function("probeHelper", ProbeHelper);
  function("names", Names);
  exports.Set("libbpfVersion", libbpf_version_string());
  return exports;
}

}  // namespace
}  // namespace libbpf_napi

static Napi::Object InitModule(Napi::Env env, Napi::Object exports) {
  return libbpf_napi::Init(env, exports);
}

NODE_API_MODULE(bpf_napi, InitModule)
