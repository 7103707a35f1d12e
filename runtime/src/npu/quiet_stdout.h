/*!
 * \file npu/quiet_stdout.h
 * \brief Keeps a chatty library off standard output.
 */
#ifndef HETERO_TVM_RUNTIME_NPU_QUIET_STDOUT_H_
#define HETERO_TVM_RUNTIME_NPU_QUIET_STDOUT_H_

#include <unistd.h>

#include <cstdio>
#include <mutex>

namespace hetero_tvm::runtime::npu {

/*!
 * \brief While one lives, what the process writes to standard output goes to standard error.
 *
 * Qualcomm's simulator prints a notice to standard output, where `--json` belongs. Of the whole
 * process, hence only around the calls known to print.
 */
class QuietStdout {
 public:
  QuietStdout() {
    const std::scoped_lock lock(State().mutex);
    if (State().living++ == 0) State().saved = Redirect(STDERR_FILENO);
  }
  QuietStdout(const QuietStdout&) = delete;
  QuietStdout& operator=(const QuietStdout&) = delete;
  ~QuietStdout() {
    const std::scoped_lock lock(State().mutex);
    if (--State().living != 0 || State().saved < 0) return;
    std::fflush(stdout);
    dup2(State().saved, STDOUT_FILENO);
    close(State().saved);
  }

 private:
  /*! \return A duplicate of what standard output was; negative when there is none. */
  static int Redirect(int target) {
    std::fflush(stdout);
    const int saved = dup(STDOUT_FILENO);
    if (saved >= 0) dup2(target, STDOUT_FILENO);
    return saved;
  }

  struct Shared {
    std::mutex mutex;
    int living = 0;
    int saved = -1;
  };

  static Shared& State() {
    static auto* shared = new Shared;
    return *shared;
  }
};

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_QUIET_STDOUT_H_
