/*!
 * \file sync_options.cc
 * \brief Reading of the switches.
 */
#include "sync_options.h"

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

}  // namespace

void SyncOptions::ReadFrom(const Settings& settings) {
  ReadSwitch(settings, "sync.implicit_waits", implicit_waits);
  ReadSwitch(settings, "sync.fast", fast);
  ReadSwitch(settings, "sync.poll_cpu", poll_cpu);
}

}  // namespace hetero_tvm::runtime
