#pragma once

#include <string>

namespace libbpf_napi {

// What libbpf says on this thread while the object is in scope.
//
// libbpf has one print callback for the whole process. We install ours once and keep the text of
// each thread apart, so that a worker's verifier log never ends up in another worker's error.
class LogCapture {
 public:
  // `verifier_on_success`: also keep the verifier's log of programs that loaded (log level > 0).
  explicit LogCapture(bool verifier_on_success = false);
  ~LogCapture();
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  const std::string& text() const { return text_; }
  std::string Take() { return std::move(text_); }

  // Once per process, before any other call into libbpf.
  static void Install();

 private:
  friend struct PrintCallback;
  LogCapture* outer_;
  bool verifier_on_success_;
  std::string text_;
};

}  // namespace libbpf_napi
