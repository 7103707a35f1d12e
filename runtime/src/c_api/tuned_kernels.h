/*!
 * \file c_api/tuned_kernels.h
 * \brief Tuned kernels on a driver that they were not proven on, as hetero_tvm/first_load.py has
 * it.
 */
#ifndef HETERO_TVM_RUNTIME_C_API_TUNED_KERNELS_H_
#define HETERO_TVM_RUNTIME_C_API_TUNED_KERNELS_H_

#include <string>
#include <vector>

#include "../settings.h"

namespace hetero_tvm::runtime {

/*! \brief One tuned kernel of an artefact, and where it was proven. */
struct TunedKernel {
  std::string function;   // its name in the artefact
  std::string kernel;     // what it computes, as a database knows it
  std::string scheduled;  // how, likewise
  std::string device;
  std::string driver;
};

/*!
 * \brief Look up what is known of the kernels of the artefact at `path` on this device and driver.
 *
 * There is no compiler here to make a reference with, so nothing is checked: what the Python loader
 * found on this machine is read from the cache. Kernels that nobody looked at are told of on
 * standard error, once for each artefact and process.
 *
 * Throws DeviceFailure for a kernel that was found wrong here, and, where the setting
 * `kernels.unproven` is "refuse", for one that nobody looked at; ValueError for another setting.
 */
void CheckTuned(const std::string& path, const std::vector<TunedKernel>& kernels,
                const std::string& device, const std::string& driver, const Settings& settings);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_C_API_TUNED_KERNELS_H_
