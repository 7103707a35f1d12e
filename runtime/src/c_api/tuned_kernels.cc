/*!
 * \file c_api/tuned_kernels.cc
 * \brief Reading what first_load.py remembered.
 */
#include "tuned_kernels.h"

#include <tvm/ffi/extra/json.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <optional>
#include <set>

#include "../check.h"
#include "sha256.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;
namespace fs = std::filesystem;

constexpr size_t kNameDigits = 32;
constexpr std::streamsize kLongestVerdict = 1 << 16;

/*! \brief Why a kernel is wrong here, empty where it is right; none where nobody looked. */
std::optional<std::string> Remembered(const TunedKernel& kernel, const std::string& device,
                                      const std::string& driver, const std::string& cache) {
  if (cache.empty()) return std::nullopt;
  const std::string identity =
      kernel.scheduled + "\n" + kernel.kernel + "\n" + device + "\n" + driver;
  Sha256 digest;
  digest.Add(identity.data(), identity.size());
  const std::string name = digest.Finish().substr(0, kNameDigits) + ".json";
  std::ifstream file(fs::path(cache) / "checked" / name, std::ios::binary);
  if (!file) return std::nullopt;
  std::string text(static_cast<size_t>(kLongestVerdict), '\0');
  file.read(text.data(), kLongestVerdict);
  text.resize(static_cast<size_t>(file.gcount()));
  // What is damaged was never looked at.
  ffi::String problem;
  const ffi::json::Value value = ffi::json::Parse(text, &problem);
  const auto object = value.try_cast<ffi::json::Object>();
  if (!problem.empty() || !object.has_value()) return std::nullopt;
  const auto reason = object->find(ffi::String("reason"));
  if (reason == object->end()) return std::nullopt;
  const auto why = (*reason).second.try_cast<ffi::String>();
  if (!why.has_value()) return std::nullopt;
  return std::string(*why);
}

/*! \brief Whether this is the first time in this process that `path` is told of. */
bool IsNews(const std::string& path) {
  static std::mutex mutex;
  static auto* told = new std::set<std::string>;  // other threads may outlive main()
  const std::scoped_lock lock(mutex);
  return told->insert(path).second;
}

}  // namespace

void CheckTuned(const std::string& path, const std::vector<TunedKernel>& kernels,
                const std::string& device, const std::string& driver, const Settings& settings) {
  const std::string asked = settings.Get("kernels.unproven");
  HETERO_CHECK(asked.empty() || asked == "tell" || asked == "refuse", ValueError)
      << "HETERO_UNPROVEN_KERNELS is '" << asked << "': give tell or refuse";
  std::vector<const TunedKernel*> unproven;
  for (const TunedKernel& kernel : kernels) {
    if (kernel.device == device && kernel.driver == driver) continue;
    const auto why = Remembered(kernel, device, driver, settings.CacheDirectory());
    if (!why.has_value()) {
      unproven.push_back(&kernel);
      continue;
    }
    HETERO_CHECK(why->empty(), DeviceFailure)
        << path << ": the tuned kernel " << kernel.function << " fails on " << device
        << " with driver " << driver << " (" << *why << "); it was proven on " << kernel.device
        << " with " << kernel.driver << ". Build it without tuned kernels: no --db";
  }
  if (unproven.empty()) return;
  const TunedKernel& first = *unproven.front();
  const std::string what =
      path + ": " + std::to_string(unproven.size()) + " tuned kernels, such as " + first.function +
      ", were proven on " + first.device + " with driver " + first.driver + ", not on " + device +
      " with " + driver +
      "; loading it once in Python here checks them, a build without --db has none";
  HETERO_CHECK(asked != "refuse", DeviceFailure) << what << " (HETERO_UNPROVEN_KERNELS=refuse)";
  if (!IsNews(path)) return;
  std::fprintf(stderr, "hetero_tvm: %s\n", what.c_str());
  std::fflush(stderr);
}

}  // namespace hetero_tvm::runtime
