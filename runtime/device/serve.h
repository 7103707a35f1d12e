/*!
 * \file device/serve.h
 * \brief One TVM RPC session over stdin and stdout, for whoever started this program.
 */
#ifndef HETERO_TVM_DEVICE_SERVE_H_
#define HETERO_TVM_DEVICE_SERVE_H_

namespace hetero_tvm::device {

/*!
 * \brief Serve until stdin ends.
 *
 * No port is opened: who can start this program may run code here anyway, so it needs no token.
 * What libraries print to stdout goes to stderr.
 */
void Serve();

}  // namespace hetero_tvm::device

#endif  // HETERO_TVM_DEVICE_SERVE_H_
