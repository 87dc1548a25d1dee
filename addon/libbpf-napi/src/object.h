#pragma once

#include <bpf/libbpf.h>
#include <napi.h>

#include <memory>
#include <string>
#include <vector>

namespace libbpf_napi {

// A bpf_object and who still needs it. Shared by the object's handle and the handles of its maps
// and programs, so that collecting one handle never frees memory under another.
class ObjectState {
 public:
  ObjectState(bpf_object* object, bool verbose) : object_(object), verbose_(verbose) {}
  ~ObjectState() { Free(); }
  ObjectState(const ObjectState&) = delete;
  ObjectState& operator=(const ObjectState&) = delete;

  bpf_object* get() const { return object_; }
  bool closed() const { return closed_; }
  bool verbose() const { return verbose_; }

  // True when the object may be used now; else throws (closed, or a loadAsync is under way).
  bool Usable(Napi::Env env, const char* operation, const std::string& subject) const;

  // Closes at once, unless a link needs libbpf's own state to detach (USDT, struct_ops): then when
  // the last such link has gone.
  void Close();
  void AddDependent() { dependents_++; }
  void DropDependent();

  // Closes this descriptor together with the object.
  void Adopt(int fd) { fds_.push_back(fd); }

  bool loaded = false;
  bool busy = false;  // a thread of the pool is loading it

 private:
  void Free();

  bpf_object* object_;
  bool verbose_;
  bool closed_ = false;
  int dependents_ = 0;
  std::vector<int> fds_;
};

class Object : public Napi::ObjectWrap<Object> {
 public:
  static constexpr napi_type_tag kTag = {0x6c6962627066206f, 0x0000000000000001};
  static Napi::Function Define(Napi::Env env);
  explicit Object(const Napi::CallbackInfo& info);

  const std::shared_ptr<ObjectState>& state() const { return state_; }

 private:
  Napi::Value Load(const Napi::CallbackInfo& info);
  Napi::Value LoadAsync(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);
  Napi::Value Name(const Napi::CallbackInfo& info);
  Napi::Value Maps(const Napi::CallbackInfo& info);
  Napi::Value Programs(const Napi::CallbackInfo& info);
  Napi::Value BtfBytes(const Napi::CallbackInfo& info);
  Napi::Value Closed(const Napi::CallbackInfo& info);
  Napi::Value Loaded(const Napi::CallbackInfo& info);

  bool Ready(Napi::Env env, const char* operation, bool before_load);
  std::string Subject() const { return "BPF object \"" + name_ + "\""; }

  std::shared_ptr<ObjectState> state_;
  std::string name_;
};

}  // namespace libbpf_napi
