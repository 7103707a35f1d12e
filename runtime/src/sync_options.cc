/*!
 * \file sync_options.cc
 * \brief Reading of the switches.
 */
#include "sync_options.h"

#include <cstdlib>
#include <string>

#include "check.h"

namespace hetero_tvm::runtime {
namespace {

void ReadSwitch(const Settings& settings, const std::string& key, std::atomic<bool>& value) {
  const std::string text = settings.Get(key);
  if (text.empty()) return;
  HETERO_CHECK(text == "0" || text == "1", ValueError)
      << "setting " << key << " is '" << text << "': give 0 or 1";
  value.store(text == "1");
}

/*! \brief A share as people write it: 0.6, or 60%; 0 where they did not. */
double ReadShare(const Settings& settings, const std::string& key) {
  const std::string text = settings.Get(key);
  if (text.empty()) return 0;
  char* end = nullptr;
  double share = std::strtod(text.c_str(), &end);
  if (*end == '%') {
    share /= 100;
    ++end;
  }
  HETERO_CHECK(end != text.c_str() && *end == '\0' && share > 0 && share <= 1, ValueError)
      << "setting " << key << " is '" << text
      << "': give a share above 0 and at most 1, as in 60% or 0.6";
  return share;
}

// A program's kernels are launched by the thread that runs it, so two programs at the same time do
// not see each other's.
thread_local double programs_share = 1.0;

}  // namespace

void SyncOptions::TakeGpuShare(double share) {
  HETERO_CHECK(share > 0 && share <= 1, ValueError)
      << "a program asks for a share of " << share << " of the GPU: above 0, at most 1";
  programs_share = share;
}

double SyncOptions::ProgramsShare() { return programs_share; }

void SyncOptions::ReadFrom(const Settings& settings) {
  ReadSwitch(settings, "sync.implicit_waits", implicit_waits);
  ReadSwitch(settings, "sync.fast", fast);
  ReadSwitch(settings, "sync.poll_cpu", poll_cpu);
  set_gpu_share_.store(ReadShare(settings, "gpu.share"));
}

}  // namespace hetero_tvm::runtime
