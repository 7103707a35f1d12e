/*!
 * \file crash_report.cc
 * \brief Handlers of signals that end the process.
 */
#include "crash_report.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstring>

#include "watch.h"
#if __has_include(<execinfo.h>)
#include <execinfo.h>
#endif

namespace hetero_tvm::runtime {
namespace {

constexpr std::array<int, 5> kSignals = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
constexpr size_t kName = 128;

std::atomic<int> file{-1};
std::atomic<bool> handling{false};
// The name may be torn where two threads launch at once; it is for people.
std::array<char, kName> last_kernel = {};
std::array<struct sigaction, kSignals.size()> before = {};

void Write(const char* text) noexcept {
  // Nothing can be done about a report that cannot be written.
  [[maybe_unused]] const ssize_t written = write(file.load(), text, std::strlen(text));
}

/*! \brief Only what may be called in a handler, and reads of what the watch has. */
void Handle(int number) {
  if (!handling.exchange(true)) {
    Watch::Describe(file.load());
    if (last_kernel[0] != '\0') {
      Write("the kernel launched last: ");
      Write(last_kernel.data());
      Write("\n");
    }
#if __has_include(<execinfo.h>)
    Write("where it happened:\n");
    std::array<void*, 64> frames = {};
    backtrace_symbols_fd(frames.data(), backtrace(frames.data(), frames.size()), file.load());
#endif
  }
  const auto at = std::find(kSignals.begin(), kSignals.end(), number) - kSignals.begin();
  sigaction(number, &before[static_cast<size_t>(at)], nullptr);
  raise(number);  // held back until this handler is left
}

}  // namespace

void CrashReport::Install(int fd) {
  if (file.exchange(fd) >= 0) return;
#if __has_include(<execinfo.h>)
  std::array<void*, 1> frames = {};
  backtrace(frames.data(), frames.size());  // the first call loads a library
#endif
  struct sigaction action = {};
  action.sa_handler = Handle;
  action.sa_flags = SA_ONSTACK;
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &before[i]);
}

void CrashReport::Note(const std::string& line) noexcept {
  if (file.load() < 0) return;
  Write(line.c_str());
  Write("\n");
}

void CrashReport::LastKernel(const std::string& name) noexcept {
  if (file.load(std::memory_order_relaxed) < 0) return;
  const size_t length = std::min(name.size(), kName - 1);
  std::memcpy(last_kernel.data(), name.data(), length);
  last_kernel[length] = '\0';
}

}  // namespace hetero_tvm::runtime
