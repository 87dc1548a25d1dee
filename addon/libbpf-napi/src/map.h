#pragma once

#include <bpf/libbpf.h>
#include <napi.h>

#include <memory>
#include <string>

#include "object.h"

namespace libbpf_napi {

// A map of an object, or one that stands alone (created, opened from a pin or by id).
class Map : public Napi::ObjectWrap<Map> {
 public:
  static constexpr napi_type_tag kTag = {0x6c6962627066206f, 0x0000000000000002};
  static Napi::Function Define(Napi::Env env);
  explicit Map(const Napi::CallbackInfo& info);
  ~Map() override;

  // A handle of a map that belongs to an object.
  static Napi::Value Make(Napi::Env env, std::shared_ptr<ObjectState> state, bpf_map* map);
  // A handle that owns `fd`, and closes it also when this fails.
  static Napi::Value Make(Napi::Env env, int fd);

  // createMap(type, name, keySize, valueSize, maxEntries, flags, innerMap?)
  static Napi::Value Create(const Napi::CallbackInfo& info);
  static Napi::Value FromPinned(const Napi::CallbackInfo& info);
  static Napi::Value FromId(const Napi::CallbackInfo& info);

  // The map's descriptor; throws and returns -1 when closed or not created yet.
  int Fd(Napi::Env env, const char* operation) const;
  bpf_map* get() const { return map_; }
  const std::shared_ptr<ObjectState>& state() const { return state_; }
  std::string Subject() const;

 private:
  struct Init;

  Napi::Value Info(const Napi::CallbackInfo& info);
  Napi::Value FdOf(const Napi::CallbackInfo& info);
  Napi::Value Id(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);
  Napi::Value Closed(const Napi::CallbackInfo& info);

  Napi::Value InitialValue(const Napi::CallbackInfo& info);
  Napi::Value SetInitialValue(const Napi::CallbackInfo& info);
  Napi::Value SetMaxEntries(const Napi::CallbackInfo& info);
  Napi::Value SetValueSize(const Napi::CallbackInfo& info);
  Napi::Value SetPinPath(const Napi::CallbackInfo& info);
  Napi::Value SetAutocreate(const Napi::CallbackInfo& info);
  Napi::Value SetInner(const Napi::CallbackInfo& info);
  Napi::Value Reuse(const Napi::CallbackInfo& info);

  Napi::Value Lookup(const Napi::CallbackInfo& info);
  Napi::Value LookupAndDelete(const Napi::CallbackInfo& info);
  Napi::Value Update(const Napi::CallbackInfo& info);
  Napi::Value Delete(const Napi::CallbackInfo& info);
  Napi::Value NextKey(const Napi::CallbackInfo& info);
  Napi::Value LookupBatch(const Napi::CallbackInfo& info);
  Napi::Value UpdateBatch(const Napi::CallbackInfo& info);
  Napi::Value DeleteBatch(const Napi::CallbackInfo& info);

  Napi::Value Pin(const Napi::CallbackInfo& info);
  Napi::Value Unpin(const Napi::CallbackInfo& info);
  Napi::Value Freeze(const Napi::CallbackInfo& info);
  Napi::Value Mmap(const Napi::CallbackInfo& info);
  Napi::Value AttachStructOps(const Napi::CallbackInfo& info);

  bool ReadShape(Napi::Env env);
  bool BeforeLoad(Napi::Env env, const char* operation) const;
  Napi::Value Take(const Napi::CallbackInfo& info, bool remove);
  uint32_t KeyBytes() const { return key_size_; }
  uint64_t ValueBytes() const;
  bool Fits(Napi::Env env, const char* operation, const struct Bytes& key, const struct Bytes* value) const;

  std::shared_ptr<ObjectState> state_;  // set for a map of an object
  bpf_map* map_ = nullptr;
  int own_fd_ = -1;                     // set for a map that stands alone
  std::string name_;
  uint32_t type_ = 0;
  uint32_t key_size_ = 0;
  uint32_t value_size_ = 0;
  uint32_t max_entries_ = 0;
  uint32_t flags_ = 0;
  bool internal_ = false;  // of a data section
  bool reused_ = false;    // stands for a map that existed before
};

}  // namespace libbpf_napi
