#!/bin/sh
# Makes the certificates of this folder anew, with openssl 3. Run it here; the keys are for tests alone.
#
#   rsa-ca (RSA-2048) -- rsa-mid -- rsa-leaf    gw.lab.test, 192.0.2.1, 2001:db8::1, admin@lab.test
#          |          -- ku-leaf (keyEncipherment only), eku-leaf (codeSigning), ike-leaf (ipsecIKE)
#          |          -- expired-leaf (2020), future-leaf (2090)
#   ec-ca (P-256) -- ec-leaf    site1.lab.test   also ec-revoked; ec.crl lists it
#   other-ca: the name of rsa-ca with another key -- other-leaf
#   expired-ca (2020 to 2021) -- orphan-leaf
#   swan-ca -- swan-leaf    a.lab.test
set -eu
rsa() { openssl genrsa -traditional -out "$1.key" 2048 2>/dev/null; }
ec() { openssl ecparam -name "${2:-prime256v1}" -genkey -out "$1.key" 2>/dev/null; }
conf() { printf '[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\npolicy=p\ndefault_md=sha256\nunique_subject=no\ncrlnumber=crlnumber\n[p]\ncommonName=supplied\norganizationName=optional\ncountryName=optional\n[x]\n%b\n' "$1" > tmp.cnf; }
# issue NAME CA SUBJECT EXTENSIONS [START END]
issue() {
    conf "$4"
    openssl req -new -key "$1.key" -subj "$3" -out tmp.csr
    openssl ca -batch -notext -preserveDN -config tmp.cnf -extensions x -in tmp.csr -out "$1.crt" -cert "$2.crt" -keyfile "$2.key" \
        -startdate "${5:-20260101000000Z}" -enddate "${6:-20460101000000Z}" 2>/dev/null
}
# root NAME SUBJECT [START END]
root() {
    conf 'basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash'
    openssl req -new -key "$1.key" -subj "$2" -out tmp.csr
    openssl ca -batch -notext -preserveDN -config tmp.cnf -extensions x -in tmp.csr -out "$1.crt" -selfsign -keyfile "$1.key" \
        -startdate "${3:-20260101000000Z}" -enddate "${4:-20460101000000Z}" 2>/dev/null
}
: > index.txt; echo 1000 > serial; echo 01 > crlnumber
L='basicConstraints=CA:false\nkeyUsage=digitalSignature\n'
rsa rsa-ca; root rsa-ca '/C=JP/O=Lab/CN=RSA CA'
rsa rsa-mid; issue rsa-mid rsa-ca '/C=JP/O=Lab/CN=RSA Intermediate' 'basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign'
rsa rsa-leaf; issue rsa-leaf rsa-mid '/C=JP/O=Lab/CN=gw.lab.test' "${L}subjectAltName=DNS:gw.lab.test,DNS:*.wild.test,IP:192.0.2.1,IP:2001:db8::1,email:admin@lab.test"
for n in ku eku ike expired future other orphan; do cp rsa-leaf.key $n-leaf.key; done
issue ku-leaf rsa-ca '/O=Lab/CN=ku' 'basicConstraints=CA:false\nkeyUsage=keyEncipherment'
issue eku-leaf rsa-ca '/O=Lab/CN=eku' "${L}extendedKeyUsage=codeSigning"
issue ike-leaf rsa-ca '/O=Lab/CN=ike' "${L}extendedKeyUsage=codeSigning,1.3.6.1.5.5.7.3.17"
issue expired-leaf rsa-ca '/O=Lab/CN=expired' "$L" 20200101000000Z 20201231235959Z
issue future-leaf rsa-ca '/O=Lab/CN=future' "$L" 20900101000000Z 20910101000000Z
rsa other-ca; root other-ca '/C=JP/O=Lab/CN=RSA CA'
issue other-leaf other-ca '/O=Lab/CN=other' "$L"
cp rsa-ca.key expired-ca.key; root expired-ca '/O=Lab/CN=Expired CA' 20200101000000Z 20210101000000Z
issue orphan-leaf expired-ca '/O=Lab/CN=orphan' "$L"
ec ec-ca; root ec-ca '/O=Lab/CN=EC CA'
ec ec-leaf; issue ec-leaf ec-ca '/O=Lab/CN=site1.lab.test' "${L}subjectAltName=DNS:site1.lab.test"
cp ec-leaf.key ec-revoked.key; issue ec-revoked ec-ca '/O=Lab/CN=revoked' "${L}subjectAltName=DNS:revoked.lab.test"
openssl ca -config tmp.cnf -cert ec-ca.crt -keyfile ec-ca.key -revoke ec-revoked.crt 2>/dev/null
openssl ca -config tmp.cnf -cert ec-ca.crt -keyfile ec-ca.key -gencrl -crl_lastupdate 20260101000000Z -crl_nextupdate 20460101000000Z -out ec.crl 2>/dev/null
ec p384 secp384r1; openssl genpkey -algorithm ed25519 -out ed25519.key
openssl pkcs8 -topk8 -nocrypt -in rsa-leaf.key -out rsa-leaf.pkcs8.key
openssl pkcs8 -topk8 -nocrypt -in ec-leaf.key -out ec-leaf.pkcs8.key
openssl pkcs8 -topk8 -in ec-leaf.key -passout pass:secret -out encrypted.key
openssl genrsa -traditional -out rsa1024.key 1024 2>/dev/null
openssl rsa -in rsa1024.key -pubout -out rsa1024.pub 2>/dev/null
for k in p384 ed25519; do openssl pkey -in $k.key -pubout -out $k.pub; done
# Signatures over "signed octets", made by another implementation.
printf 'signed octets' > message
for h in 256 384 512; do
    openssl dgst -sha$h -sign rsa-leaf.key -out rsa-sha$h.sig message
    openssl dgst -sha$h -sign ec-leaf.key -out ec-sha$h.sig message
    openssl dgst -sha$h -sign p384.key -out p384-sha$h.sig message
done
openssl dgst -sha1 -sign rsa-leaf.key -out rsa-sha1.sig message
openssl dgst -sha384 -sign rsa-leaf.key -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:48 -sigopt rsa_mgf1_md:sha384 -out rsa-pss-sha384.sig message
openssl pkeyutl -sign -rawin -in message -inkey ed25519.key -out ed25519.sig
# A certificate signed with RSASSA-PSS: its AlgorithmIdentifier is openssl's.
openssl req -new -x509 -key rsa-leaf.key -subj /CN=pss -sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:48 -sigopt rsa_mgf1_md:sha384 -outform der -out pss.der
# strongSwan's own tool, package strongswan-pki. It lives off its configuration's plugin list.
echo 'pki { load = random pem pkcs1 x509 pubkey openssl }' > tmp.conf; export STRONGSWAN_CONF=tmp.conf
pki --self --ca --in rsa-ca.key --type rsa --digest sha256 --dn "O=Lab, CN=Swan CA" --dateform %Y-%m-%d --not-before 2026-01-01 --not-after 2046-01-01 \
    --outform pem > swan-ca.crt
pki --pub --in rsa-leaf.key --type rsa | pki --issue --cacert swan-ca.crt --cakey rsa-ca.key --digest sha256 --dn "O=Lab, CN=a.lab.test" --san a.lab.test \
    --dateform %Y-%m-%d --not-before 2026-01-01 --not-after 2046-01-01 --outform pem > swan-leaf.crt
# What CERTREQ names the authorities by.
for c in ec-ca rsa-ca; do openssl x509 -in $c.crt -noout -pubkey | openssl pkey -pubin -outform der | sha1sum | cut -c1-40; done > authorities.sha1
rm -f tmp.* index.txt* serial* crlnumber* 1*.pem message ku-leaf.key eku-leaf.key ike-leaf.key expired-leaf.key future-leaf.key other-leaf.key orphan-leaf.key ec-revoked.key \
    rsa-ca.key rsa-mid.key other-ca.key expired-ca.key ec-ca.key
