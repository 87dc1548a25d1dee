#pragma once

#include <bpf/libbpf.h>
#include <napi.h>

#include <memory>
#include <string>

#include "object.h"

namespace libbpf_napi {

// An attachment. Three kinds stand behind one handle: a link of libbpf, the bare descriptor of a
// kernel link, and a clsact filter (which the kernel does not tie to a descriptor).
class Link : public Napi::ObjectWrap<Link> {
 public:
  static constexpr napi_type_tag kTag = {0x6c6962627066206f, 0x0000000000000003};
  static Napi::Function Define(Napi::Env env);
  explicit Link(const Napi::CallbackInfo& info);
  ~Link() override;

  // These own what they are given, also when they fail. `state` is set when detaching needs
  // libbpf's memory of the object (USDT, struct_ops).
  static Napi::Value Make(Napi::Env env, bpf_link* link, std::shared_ptr<ObjectState> state = nullptr);
  static Napi::Value Make(Napi::Env env, int fd);
  // A filter on a clsact hook. The hook itself stays: others may have filters there.
  static Napi::Value MakeFilter(Napi::Env env, const bpf_tc_hook& hook, const bpf_tc_opts& filter);

  static Napi::Value FromPinned(const Napi::CallbackInfo& info);
  static Napi::Value FromId(const Napi::CallbackInfo& info);

  // The descriptor of the kernel link; throws and returns -1 when closed or when there is none.
  int Fd(Napi::Env env, const char* operation) const;

 private:
  struct Target {
    bpf_link* link = nullptr;
    int fd = -1;
    bool in_kernel = true;  // false: an attachment older than kernel links, held by another descriptor
    std::shared_ptr<ObjectState> state;
    bool is_filter = false;
    bpf_tc_hook hook = {};
    uint32_t handle = 0;
    uint32_t priority = 0;

    bool open() const { return link != nullptr || fd >= 0 || is_filter; }
    int Release();
  };
  static Napi::Value MakeFrom(Napi::Env env, Target target);

  Napi::Value Close(const Napi::CallbackInfo& info);
  Napi::Value Closed(const Napi::CallbackInfo& info);
  Napi::Value Detach(const Napi::CallbackInfo& info);
  Napi::Value FdOf(const Napi::CallbackInfo& info);
  Napi::Value Info(const Napi::CallbackInfo& info);
  Napi::Value Update(const Napi::CallbackInfo& info);
  Napi::Value UpdateMap(const Napi::CallbackInfo& info);
  Napi::Value Pin(const Napi::CallbackInfo& info);
  Napi::Value ReadIterator(const Napi::CallbackInfo& info);

  Target target_;
};

}  // namespace libbpf_napi
