/*!
 * \file signature.h
 * \brief Ed25519 signatures of artefacts, by the system's libcrypto.
 */
#ifndef HETERO_TVM_RUNTIME_SIGNATURE_H_
#define HETERO_TVM_RUNTIME_SIGNATURE_H_

#include <string>

namespace hetero_tvm::runtime {

/*!
 * \brief Throw ValueError unless a key in the file `trusted` has signed the artefact `name`.
 *
 * The format is that of hetero_tvm/signing.py. Throws EnvironmentProblem where this machine has no
 * libcrypto to check a signature with: then nothing is accepted.
 *
 * \param name The artefact, for messages.
 * \param footer Its footer, whose hashes hold.
 * \param block Signature, public key and magic; empty: it is not signed.
 * \param trusted Public keys, one a line.
 */
void CheckSignature(const std::string& name, const std::string& footer, const std::string& block,
                    const std::string& trusted);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_SIGNATURE_H_
